/* absent STATUS WORD: creating a handle of device 0 gives this status with a message that has this word; BEST takes the CPU and says so.
 * CTest runs it where libcuda.so.1 is a broken file, and where it is a library with nothing in it. */
#include <stdio.h>
#include <string.h>

#include "flashqla.h"

static char g_log[1024];

static void keep(void* user, int32_t level, const char* message) {
    (void)user;
    (void)level;
    snprintf(g_log, sizeof g_log, "%s", message);
}

int main(int argc, char** argv) {
    flashqla_config config;
    flashqla_handle* handle = NULL;
    int32_t status;
    if (argc != 3) return 2;
    flashqla_config_init(&config, sizeof config);
    config.device = 0;
    config.log = keep;
    status = flashqla_create(&handle, &config);
    printf("%s: %s\n", flashqla_status_name(status), flashqla_last_error());
    if (strcmp(flashqla_status_name(status), argv[1]) || !strstr(flashqla_last_error(), argv[2]) || handle) return 1;
    config.device = FLASHQLA_DEVICE_BEST;
    if (flashqla_create(&handle, &config)) return 1;
    flashqla_destroy(handle);
    printf("log: %s\n", g_log);
    return !strstr(g_log, "using the CPU") || !strstr(g_log, argv[2]);
}
