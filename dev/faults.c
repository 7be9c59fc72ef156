/*
dev/faults.c: memory that runs out once. A library to preload on Linux with glibc: the allocation whose number FAIL_ALLOCATION
gives, counted from the start of main, fails; all others are made. With FAIL_ALLOCATION=0 none fails, and the last line on
stderr says how many there were. dev/faults.sh uses it.
*/
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

static long count, failing = -1;  // -1: main has not begun

// Before main: what the loader and libc allocate for themselves is theirs.
static __attribute__((constructor)) void begin(void)
{
    const char *number = getenv("FAIL_ALLOCATION");
    failing = number ? atol(number) : -1;
}

static __attribute__((destructor)) void end(void)
{
    if (failing == 0) fprintf(stderr, "%ld\n", count);
}

// Is it this allocation's turn to fail?
static int fails(void)
{
    if (failing < 0 || ++count != failing) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t items, size_t size) { return fails() ? NULL : __libc_calloc(items, size); }
void *realloc(void *memory, size_t size) { return fails() ? NULL : __libc_realloc(memory, size); }
void *aligned_alloc(size_t alignment, size_t size) { return fails() ? NULL : __libc_memalign(alignment, size); }
