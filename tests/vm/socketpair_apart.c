/* For LD_PRELOAD: socketpair(2) takes numbers that nothing else gets. QEMU 11.1.3 closes one end twice
 * (findings/qemu-closes-passts-socket-twice.sh); the second close then finds nothing, instead of what another thread has opened. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define APART 500 /* more descriptors than QEMU has */

int socketpair(int domain, int type, int protocol, int ends[2])
{
	if (syscall(SYS_socketpair, domain, type, protocol, ends) != 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		int apart = fcntl(ends[i], type & SOCK_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, APART);

		if (apart >= 0) {
			close(ends[i]);
			ends[i] = apart;
		}
	}
	return 0;
}
