/* Counts, delays nothing, and breaks file-system writes of one process, for kill and disk-fault sweeps.
 *
 * Loaded with LD_PRELOAD. It acts in the process whose command line holds SHIM_WHO, on paths below SHIM_ROOT, and on
 * calls that change a file system: open for writing, write, rename, link, unlink, mkdir, truncate, chmod, fsync.
 *
 *   SHIM_LOG     file outside SHIM_ROOT; a line `<call> <bytes> <path>` for every call, before it happens; a rename's
 *                has a tab and what was renamed, as it was given, behind it
 *   SHIM_AT      number of the call (from 1) at which to act; 0 never
 *   SHIM_DO      kill: SIGKILL before that call, a write is done to its half first
 *                stop: SIGSTOP before every call, and once more when a write is half done, with a line `half` in the log;
 *                after SIGCONT it goes on
 *                an errno: that call fails with it, and with SHIM_STICKY=1 all later ones of SHIM_CALLS too
 *   SHIM_CALLS   words: which calls count and fail; empty all
 *   SHIM_BYTES   after so many bytes written, write fails with ENOSPC, as on a full disk, until files are removed
 *   SHIM_VICTIM  kill not this process but its nearest ancestor whose command line holds this
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char root[4096], calls[256], victim[256];
static int armed, log_to = -1, wanted_errno, sticky, stopping;
static long at, count;
static __thread const char *moved_from;
static long long room = -1;

static int holds(pid_t pid, const char *text) {
    char path[64], line[16384];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    ssize_t got = syscall(SYS_read, fd, line, sizeof line - 1);
    syscall(SYS_close, fd);
    if (got <= 0) return 0;
    for (ssize_t i = 0; i < got; i++)
        if (!line[i]) line[i] = ' ';
    line[got] = 0;
    return strstr(line, text) != NULL;
}

static pid_t parent_of(pid_t pid) {
    char path[64], line[4096];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    ssize_t got = syscall(SYS_read, fd, line, sizeof line - 1);
    syscall(SYS_close, fd);
    if (got <= 0) return 0;
    line[got] = 0;
    char *after = strrchr(line, ')');
    int parent = 0;
    if (after) sscanf(after + 2, "%*c %d", &parent);
    return parent;
}

/* Also called by a process that was forked after its imports (benchmarks/kill_points.py). */
void shim_arm(const char *new_root, long new_at, const char *what, const char *new_calls, const char *new_victim,
              const char *log_path, long long bytes, int is_sticky) {
    snprintf(root, sizeof root, "%s", new_root ? new_root : "");
    snprintf(calls, sizeof calls, "%s", new_calls ? new_calls : "");
    snprintf(victim, sizeof victim, "%s", new_victim ? new_victim : "");
    at = new_at;
    count = 0;
    room = bytes;
    sticky = is_sticky;
    stopping = what && !strcmp(what, "stop");
    wanted_errno = what && strcmp(what, "kill") ? atoi(what) : 0;
    if (log_to >= 0) syscall(SYS_close, log_to);
    log_to = -1;
    if (log_path && *log_path)
        log_to = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    armed = root[0] != 0;
}

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    const char *who = getenv("SHIM_WHO");
    if (!who || !getenv("SHIM_ROOT") || !holds(getpid(), who)) return;
    shim_arm(getenv("SHIM_ROOT"), atol(setting("SHIM_AT", "0")), setting("SHIM_DO", "kill"),
             setting("SHIM_CALLS", ""), setting("SHIM_VICTIM", ""), setting("SHIM_LOG", ""),
             atoll(setting("SHIM_BYTES", "-1")), atoi(setting("SHIM_STICKY", "0")));
}

/* The absolute path, "" where it is none of ours. */
static int ours(int dir, const char *path, char *full) {
    if (!armed) return 0;
    if (path && path[0] == '/') {
        snprintf(full, 4096, "%s", path);
    } else {
        char link[64], base[4096];
        if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        if (got <= 0) return 0;
        base[got] = 0;
        if (path) snprintf(full, 4096, "%.2000s/%.2000s", base, path);
        else snprintf(full, 4096, "%s", base);
    }
    size_t length = strlen(root);
    return !strncmp(full, root, length) && !strstr(full, "__pycache__") && !strstr(full, "/.git/");
}

static void strike(void) {
    pid_t pid = getpid();
    if (stopping) {
        syscall(SYS_tgkill, pid, syscall(SYS_gettid), SIGSTOP); /* to this thread, so that it goes no further */
        return;
    }
    if (victim[0]) {
        for (pid = getppid(); pid > 1 && !holds(pid, victim);) pid = parent_of(pid);
        if (pid <= 1) return;
        kill(pid, SIGKILL);
        /* Who watches its parent (not this shim) is to end this process. */
        struct timespec wait = {0, 50000000};
        nanosleep(&wait, NULL);
        return;
    }
    syscall(SYS_kill, pid, SIGKILL);
    for (;;) pause();
}

/* 0: go on. 1: fail with errno. 2: write the half, strike, and write the rest where that was a stop. */
static int visit(const char *call, int dir, const char *path, long long bytes) {
    char full[4096];
    int before = errno;
    if (!ours(dir, path, full)) {
        errno = before;
        return 0;
    }
    if (calls[0] && !strstr(calls, call)) return 0;
    if (log_to >= 0) {
        char line[4400];
        int length = moved_from ? snprintf(line, sizeof line, "%s %lld %s\t%.2000s\n", call, bytes, full, moved_from)
                                : snprintf(line, sizeof line, "%s %lld %s\n", call, bytes, full);
        syscall(SYS_write, log_to, line, length);
    }
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    errno = before;
    if (stopping) {
        strike();
        if (bytes > 1 && log_to >= 0) {
            char line[4400];
            syscall(SYS_write, log_to, line, snprintf(line, sizeof line, "half %lld %s\n", bytes / 2, full));
        }
        errno = before;
        return bytes > 1 ? 2 : 0;
    }
    if (!at || number < at) return 0;
    if (number > at && !(sticky && wanted_errno)) return 0;
    if (wanted_errno) {
        errno = wanted_errno;
        return 1;
    }
    if (bytes > 1 && !victim[0]) return 2;
    strike();
    return 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

#define OPENER(name, dir, ...) \
    { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        if (writes(flags) && visit("open", dir, path, 0) == 1) return -1; \
        return real(__VA_ARGS__, flags, mode); \
    }
int open(const char *path, int flags, ...) OPENER(open, AT_FDCWD, path)
int open64(const char *path, int flags, ...) OPENER(open64, AT_FDCWD, path)
int openat(int dir, const char *path, int flags, ...) OPENER(openat, dir, dir, path)
int openat64(int dir, const char *path, int flags, ...) OPENER(openat64, dir, dir, path)

FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    if (strpbrk(mode, "wa+") && visit("open", AT_FDCWD, path, 0) == 1) return NULL;
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    if (strpbrk(mode, "wa+") && visit("open", AT_FDCWD, path, 0) == 1) return NULL;
    return real(path, mode);
}

/* How much of a write fits on the "disk"; -1 where it is full. */
static ssize_t fits(int fd, size_t size) {
    char full[4096];
    if (room < 0 || !ours(fd, NULL, full)) return size;
    if (room == 0) {
        errno = ENOSPC;
        return -1;
    }
    if ((long long)size > room) size = room;
    room -= size;
    return size;
}

/* Copies ask for more than there is. */
static size_t there_is(int from, size_t size) {
    struct stat at_;
    return fstat(from, &at_) || (size_t)at_.st_size > size ? size : (size_t)at_.st_size;
}

/* `call` writes `size` bytes from the `done`th on. */
#define WRITER(call) \
    int what = visit("write", fd, NULL, size); \
    if (what == 1) return -1; \
    size_t whole = size; \
    ssize_t done = 0; \
    if (what == 2) size /= 2; \
    ssize_t part = fits(fd, size); \
    if (part < 0) return -1; \
    size = part; \
    ssize_t first = call; \
    if (what != 2) return first; \
    strike(); \
    if (first < (ssize_t)size) return first; \
    done = first; \
    size = whole - done; \
    ssize_t rest = call; \
    return rest < 0 ? done : done + rest;
ssize_t write(int fd, const void *data, size_t size) { REAL(write); WRITER(real(fd, (const char *)data + done, size)) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at_) {
    REAL(pwrite);
    WRITER(real(fd, (const char *)data + done, size, at_ + done))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at_) {
    REAL(pwrite64);
    WRITER(real(fd, (const char *)data + done, size, at_ + done))
}
ssize_t sendfile(int fd, int from, off_t *offset, size_t size);
ssize_t sendfile(int fd, int from, off_t *offset, size_t size) {
    REAL(sendfile);
    size = there_is(from, size);
    WRITER(real(fd, from, offset, size))
}
ssize_t sendfile64(int fd, int from, off64_t *offset, size_t size);
ssize_t sendfile64(int fd, int from, off64_t *offset, size_t size) {
    REAL(sendfile64);
    size = there_is(from, size);
    WRITER(real(fd, from, offset, size))
}
ssize_t copy_file_range(int from, off64_t *in, int fd, off64_t *out, size_t size, unsigned flags) {
    REAL(copy_file_range);
    size = there_is(from, size);
    WRITER(real(from, in, fd, out, size, flags))
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
    size_t size = 0;
    REAL(writev);
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    int what = visit("write", fd, NULL, size);
    if (what == 1) return -1;
    if (what == 2) strike();
    if (fits(fd, size) < (ssize_t)size) { errno = ENOSPC; return -1; }
    return real(fd, parts, number);
}
size_t fwrite(const void *data, size_t each, size_t number, FILE *file) {
    REAL(fwrite);
    int fd = fileno(file);
    size_t size = each * number;
    if (fd < 0) return real(data, each, number, file);
    int what = visit("write", fd, NULL, size);
    if (what == 1) return 0;
    if (what == 2) {
        size_t half = real(data, each, number / 2, file);
        fflush(file);
        strike();
        return half + real((const char *)data + half * each, each, number - half, file);
    }
    if (fits(fd, size) < (ssize_t)size) { errno = ENOSPC; return 0; }
    return real(data, each, number, file);
}

#define SIMPLE(type, name, word, dir, path, parameters, ...) \
    type name parameters { \
        REAL(name); \
        int what = visit(word, dir, path, 0); \
        moved_from = NULL; \
        if (what == 1) return -1; \
        return real(__VA_ARGS__); \
    }
SIMPLE(int, rename, (moved_from = from, "rename"), AT_FDCWD, to, (const char *from, const char *to), from, to)
SIMPLE(int, renameat, (moved_from = from, "rename"), d2, to, (int d1, const char *from, int d2, const char *to), d1, from, d2, to)
SIMPLE(int, renameat2, (moved_from = from, "rename"), d2, to, (int d1, const char *from, int d2, const char *to, unsigned f), d1, from, d2, to, f)
SIMPLE(int, link, "link", AT_FDCWD, to, (const char *from, const char *to), from, to)
SIMPLE(int, linkat, "link", d2, to, (int d1, const char *from, int d2, const char *to, int f), d1, from, d2, to, f)
SIMPLE(int, symlink, "link", AT_FDCWD, to, (const char *from, const char *to), from, to)
SIMPLE(int, unlink, "unlink", AT_FDCWD, path, (const char *path), path)
SIMPLE(int, unlinkat, "unlink", dir, path, (int dir, const char *path, int f), dir, path, f)
SIMPLE(int, rmdir, "unlink", AT_FDCWD, path, (const char *path), path)
SIMPLE(int, mkdir, "mkdir", AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
SIMPLE(int, mkdirat, "mkdir", dir, path, (int dir, const char *path, mode_t mode), dir, path, mode)
SIMPLE(int, chmod, "chmod", AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
SIMPLE(int, truncate, "truncate", AT_FDCWD, path, (const char *path, off_t size), path, size)
SIMPLE(int, ftruncate, "truncate", fd, NULL, (int fd, off_t size), fd, size)
SIMPLE(int, ftruncate64, "truncate", fd, NULL, (int fd, off64_t size), fd, size)
SIMPLE(int, fsync, "fsync", fd, NULL, (int fd), fd)
SIMPLE(int, fdatasync, "fsync", fd, NULL, (int fd), fd)
