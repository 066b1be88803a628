/* Purpose: fuzz target: which server the head of an HTTP request names (wire/server_name.h). */
#include "named.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	check_reader(server_name_in_request, data, len);
	return 0;
}
