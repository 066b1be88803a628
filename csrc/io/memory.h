/* Purpose: give back the memory of an interpreter that a process does not need any more. */
#ifndef PASTA_IO_MEMORY_H
#define PASTA_IO_MEMORY_H

/* For a fork that stays in C from now on and neither returns to Python nor allocates: its private memory goes back to the kernel, but
 * for the stack, thread-local storage, and the data of this library, the C library and the dynamic linker. Afterwards the process ends
 * by _exit(2). Where that cannot be done safely, nothing happens. */
void memory_release(void);

#endif
