/* For LD_PRELOAD: while the file TEST_FAIL_SYNC names exists, each fsync and fdatasync of a file whose
   path has TEST_FAIL_SYNC_OF in it fails as a broken disk does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd) {
    const char *trigger = getenv("TEST_FAIL_SYNC"), *part = getenv("TEST_FAIL_SYNC_OF");
    char link[64], path[4096];
    ssize_t length;
    if (!trigger || !part || access(trigger, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (!fails(fd))
        return real(fd);
    errno = EIO;
    return -1;
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (!fails(fd))
        return real(fd);
    errno = EIO;
    return -1;
}
