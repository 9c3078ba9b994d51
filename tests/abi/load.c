/* load LIBRARY: opens the library as a plug-in would, where there may be no driver; asks what needs none; closes it; it stays. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "flashqla.h"

#define REQUIRE(condition)                                 \
    do {                                                   \
        if (!(condition)) {                                \
            printf("line %d: %s\n", __LINE__, #condition); \
            return 1;                                      \
        }                                                  \
    } while (0)

/* C has no cast from void * to a function pointer; POSIX promises the bytes. */
static int find(void* library, const char* name, void* function) {
    void* symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

int main(int argc, char** argv) {
    int32_t (*version)(void);
    const char* (*status_name)(int32_t);
    const char* (*last_error)(void);
    const char* (*build_info)(void);
    int32_t (*create)(flashqla_handle**, const flashqla_config*);
    void (*destroy)(flashqla_handle*);
    flashqla_handle* handle = NULL;
    flashqla_config config;
    void* library;
    int32_t status;

    REQUIRE(argc == 2);
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) printf("%s\n", dlerror());
    REQUIRE(library);
    REQUIRE(!dlsym(library, "cuInit")); /* no driver came with it */
    REQUIRE(find(library, "flashqla_version", &version) && version() == FLASHQLA_VERSION);
    REQUIRE(find(library, "flashqla_status_name", &status_name) && !strcmp(status_name(4), "NO_DRIVER") && !strcmp(status_name(99), "unknown status"));
    REQUIRE(find(library, "flashqla_last_error", &last_error) && !strcmp(last_error(), ""));
    REQUIRE(find(library, "flashqla_build_info", &build_info) && strstr(build_info(), "flashqla 0.1.0"));
    REQUIRE(find(library, "flashqla_create", &create) && find(library, "flashqla_destroy", &destroy));

    memset(&config, 0, sizeof config);
    config.struct_size = (uint32_t)sizeof config;
    config.device = 0;
    status = create(&handle, &config); /* a machine with a usable GPU gives OK */
    REQUIRE(status == FLASHQLA_STATUS_OK || (handle == NULL && strlen(last_error()) > 10));
    printf("device 0: %s %s\n", status_name(status), last_error());
    destroy(handle);
    config.device = FLASHQLA_DEVICE_CPU;
    REQUIRE(create(&handle, &config) == FLASHQLA_STATUS_OK);
    destroy(handle);

    REQUIRE(dlclose(library) == 0);
    REQUIRE(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD)); /* nodelete */
    REQUIRE(version() == FLASHQLA_VERSION && !strcmp(status_name(0), "OK"));
    puts(build_info());
    return 0;
}
