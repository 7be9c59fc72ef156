// tokenizer.c: a byte-level BPE tokenizer, exact against GPT-2's. It trains a vocabulary, turns text into tokens and back.
//
// A text becomes tokens in two steps. First it is cut into words, by a fixed pattern of letters, numbers, spaces and
// the rest; a space belongs to the word after it, so "a cat's 9 lives" is "a", " cat", "'s", " 9", " lives". Then every
// word starts as its bytes, and neighbours are merged, pair after pair, in the order in which training found the pairs.
// Any bytes at all can be encoded, and decoding gives them back: the 256 bytes are tokens themselves.
//
// Training counts the distinct words of a text, and then, again and again, makes the most frequent pair of neighbouring
// tokens a new token. So a token's id says when it was made: a low id is a frequent piece.
//
//     ./tokenizer train -v 1024 -o FOLDER text.txt        writes FOLDER/vocab.json and FOLDER/merges.txt
//     ./tokenizer encode -m FOLDER -o tokens.bin text.txt
//     ./tokenizer decode -m FOLDER tokens.bin
//
// It is also a library: #define TOKENIZER_LIBRARY, then #include "tokenizer.c". That leaves out training and main().
// The rooms, in order: utilities, characters, JSON, words, the vocabulary, encoding, the vocabulary's files; and for
// the program alone: reading text, training, tokens.bin, the command line.

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian, and so must the machine be"
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function" // nobody who uses the library has to use all of it

// ---------------------------------------------------------------------------------------------------------------------
// Utilities: errors, memory, files. There is one way to fail: one line on stderr, no half-written file, exit 1.

static const char *program = "tokenizer"; // the name in front of messages
static char *output_path, *output_temporary; // the file being written, and the name it has until it is whole

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Says what is wrong, in one line on stderr, removes the unfinished output file if there is one, and exits with 1.
static _Noreturn void die(const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *c = message; *c; c++) if ((unsigned char)*c < 32 || *c == 127) *c = '?'; // file names and tokens can hold anything
    fprintf(stderr, "%s: %s\n", program, message);
    if (output_temporary) unlink(output_temporary);
    exit(1);
}

// Returns zeroed memory for `count` items of `size` bytes. Never NULL: dies when there is not enough.
static void *allocate(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) die("out of memory: %zu items of %zu bytes", count, size);
    void *memory = calloc(count ? count : 1, size ? size : 1); // of no bytes, still a pointer
    if (!memory) die("out of memory: %zu bytes", count * size);
    return memory;
}

// Makes room for `needed` items of `size` bytes in a list that has room for *capacity. It at least doubles, so that n
// appends cost n, not n squared. Returns the list, which may have moved; dies when memory runs out.
static void *grow(void *list, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) return list;
    size_t room = *capacity < 8 ? 8 : *capacity;
    while (room < needed && room <= SIZE_MAX / 2) room *= 2;
    if (room < needed || room > SIZE_MAX / size) die("out of memory: %zu items of %zu bytes", needed, size);
    list = realloc(list, room * size);
    if (!list) die("out of memory: %zu bytes", room * size);
    *capacity = room;
    return list;
}

// Returns "folder/name", to be freed.
static char *path_in(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = allocate(size, 1);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

// Creates a folder, unless it is there already; dies when that cannot be.
static void make_folder(const char *path) {
    struct stat status;
    if (mkdir(path, 0777) == 0) return;
    if (errno != EEXIST) die("%s: cannot be created: %s", path, strerror(errno));
    if (stat(path, &status) == 0 && !S_ISDIR(status.st_mode)) die("%s: is a file, not a folder", path);
}

// Opens a file to read; "-" is standard input. Dies when it is not there, or is a folder.
static FILE *open_file(const char *path) {
    if (strcmp(path, "-") == 0) return stdin;
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: %s", path, strerror(errno));
    if (fstat(fileno(file), &status) == 0 && S_ISDIR(status.st_mode)) die("%s: is a folder, not a file", path);
    return file;
}

// Reads a whole file. Returns its bytes with a NUL behind them, to be freed, and how many there are; dies on any error.
static char *read_file(const char *path, size_t *size) {
    FILE *file = open_file(path);
    char *bytes = NULL;
    size_t capacity = 0, length = 0, got;
    do {
        bytes = grow(bytes, &capacity, length + 65536, 1);
        got = fread(bytes + length, 1, capacity - length - 1, file);
        length += got;
    } while (got > 0);
    if (ferror(file)) die("%s: %s", path, strerror(errno));
    fclose(file);
    bytes[length] = 0;
    *size = length;
    return bytes;
}

// Opens a file to write, one at a time. It appears whole or not at all: until output_close it is PATH.tmp, and an
// older file keeps its place. Dies when that cannot be opened, or when PATH is there and no plain file.
static FILE *output_open(const char *path) {
    struct stat status;
    if (output_path) die("%s: cannot be written before %s is", path, output_path);
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) die("%s: is no plain file, and would be replaced", path);
    size_t size = strlen(path) + 5;
    char *temporary = allocate(size, 1);
    snprintf(temporary, size, "%s.tmp", path);
    FILE *file = fopen(temporary, "wb");
    if (!file) die("%s: %s", temporary, strerror(errno));
    output_temporary = temporary;
    output_path = allocate(size, 1);
    memcpy(output_path, path, size - 4);
    return file;
}

// Puts the file from output_open in its place, all of it on disk; dies, naming it and the reason, if any write failed.
static void output_close(FILE *file) {
    errno = EIO; // for a write that failed long ago
    if (fflush(file) || ferror(file) || fsync(fileno(file)) || fclose(file) || rename(output_temporary, output_path))
        die("%s: not written: %s", output_path, strerror(errno));
    free(output_temporary);
    free(output_path);
    output_temporary = output_path = NULL;
}

// To be called last: dies if something printed did not arrive, as when standard output is closed or the disk is full.
static void finish_stdout(void) {
    errno = EIO;
    if (fflush(stdout) || ferror(stdout)) die("standard output: %s", strerror(errno));
}

enum { FNV_START = 0x811c9dc5 };

// Returns the 32-bit FNV-1a hash of some bytes, continued from `hash`, which starts as FNV_START.
static uint32_t fnv1a(uint32_t hash, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 16777619u;
    return hash;
}

typedef struct { uint64_t order, item; } Entry;                        // what comes first, and among equals
typedef struct { Entry *entries; size_t count, capacity; } Heap;       // every entry is below its two children's

// Is entry a to leave the heap before b?
static int entry_before(Entry a, Entry b) {
    return a.order < b.order || (a.order == b.order && a.item < b.item);
}

// Adds an entry: from the last place it climbs past every parent that it should leave before.
static void heap_push(Heap *heap, uint64_t order, uint64_t item) {
    Entry entry = {order, item};
    heap->entries = grow(heap->entries, &heap->capacity, heap->count + 1, sizeof(Entry));
    size_t i = heap->count++;
    for (; i > 0 && entry_before(entry, heap->entries[(i - 1) / 2]); i = (i - 1) / 2)
        heap->entries[i] = heap->entries[(i - 1) / 2];
    heap->entries[i] = entry;
}

// Removes and returns the first entry; the heap must not be empty. The last entry sinks from its place to where it belongs.
static Entry heap_pop(Heap *heap) {
    Entry first = heap->entries[0], last = heap->entries[--heap->count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < heap->count) {
        if (child + 1 < heap->count && entry_before(heap->entries[child + 1], heap->entries[child])) child++;
        if (!entry_before(heap->entries[child], last)) break;
        heap->entries[i] = heap->entries[child];
        i = child;
    }
    heap->entries[i] = last;
    return first;
}

// ---------------------------------------------------------------------------------------------------------------------
// Characters: UTF-8, and which code points are letters, numbers and spaces.

// Reads one character of UTF-8 from the n bytes at s. Returns its length in bytes, or 0 if no valid one starts there.
static int utf8_decode(const char *s, size_t n, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000}; // a longer form than needed is not valid
    unsigned char first = n ? (unsigned char)s[0] : 0xff;
    size_t length = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
    if (length == 0 || length > n) return 0;
    uint32_t c = length == 1 ? first : first & (0x7f >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < smallest[length] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
    *code = c;
    return (int)length;
}

// Writes one character as UTF-8 to s, which has room for 4 bytes. Returns how many it takes.
static int utf8_encode(uint32_t code, char *s) {
    int length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, code >>= 6) s[i] = (char)(0x80 | (code & 0x3f));
    s[0] = (char)(length == 1 ? code : (0xf00u >> length & 0xff) | code);
    return length;
}

// Letters (\p{L}) and numbers (\p{N}) of Unicode 16.0, printed by dev/unicode.py. A pair is: code points skipped since
// the last range, code points in this one. The spaces (\s, White_Space) are so few that they are written out.
enum { UNICODE_END = 0x323b0 };
static const uint16_t unicode_letters[] = {
    65,26, 6,26, 47,1, 10,1, 4,1, 5,23, 1,31, 1,458, 4,12, 14,5, 7,1, 1,1, 129,5, 1,2, 2,4, 1,1, 6,1, 1,3, 1,1, 1,20,
    1,83, 1,139, 8,166, 1,38, 2,1, 6,41, 71,27, 4,4, 45,43, 35,2, 1,99, 1,1, 15,2, 7,2, 10,3, 2,1, 16,1, 1,30, 29,89,
    11,1, 24,33, 9,2, 4,1, 5,22, 4,1, 9,1, 3,1, 23,25, 7,11, 5,24, 1,6, 17,42, 58,54, 3,1, 18,1, 7,10, 15,16, 4,8, 2,2,
    2,22, 1,7, 1,1, 3,4, 3,1, 16,1, 13,2, 1,3, 14,2, 10,1, 8,6, 4,2, 2,22, 1,7, 1,2, 1,2, 1,2, 31,4, 1,1, 19,3, 16,9,
    1,3, 1,22, 1,7, 1,2, 1,5, 3,1, 18,1, 15,2, 23,1, 11,8, 2,2, 2,22, 1,7, 1,2, 1,5, 3,1, 30,2, 1,3, 15,1, 17,1, 1,6,
    3,3, 1,4, 3,2, 1,1, 1,2, 3,2, 3,3, 3,12, 22,1, 52,8, 1,3, 1,23, 1,16, 3,1, 26,3, 2,1, 2,2, 30,1, 4,8, 1,3, 1,23,
    1,10, 1,5, 3,1, 31,2, 1,2, 15,2, 17,9, 1,3, 1,41, 2,1, 16,1, 5,3, 8,3, 24,6, 5,18, 3,24, 1,9, 1,1, 2,7, 58,48, 1,2,
    12,7, 58,2, 1,1, 1,5, 1,24, 1,1, 1,10, 1,2, 9,1, 2,5, 1,1, 21,4, 32,1, 63,8, 1,36, 27,5, 115,43, 20,1, 16,6, 4,4,
    3,1, 3,2, 7,3, 4,13, 12,1, 17,38, 1,1, 5,1, 2,43, 1,333, 1,4, 2,7, 1,1, 1,4, 2,41, 1,4, 2,33, 1,4, 2,7, 1,1, 1,4,
    2,15, 1,57, 1,4, 2,67, 37,16, 16,86, 2,6, 3,620, 2,17, 1,26, 5,75, 6,8, 7,18, 13,19, 14,18, 14,13, 1,3, 15,52,
    35,1, 4,1, 67,89, 7,5, 2,34, 1,1, 5,70, 10,31, 49,30, 2,5, 11,44, 4,26, 54,23, 9,53, 82,1, 93,47, 17,8, 54,30,
    13,2, 10,44, 26,36, 41,3, 10,36, 2,11, 5,43, 2,3, 41,4, 1,6, 1,2, 3,1, 5,192, 64,278, 2,6, 2,38, 2,6, 2,8, 1,1,
    1,1, 1,1, 1,31, 2,53, 1,7, 1,1, 3,3, 1,7, 3,4, 2,6, 4,13, 5,3, 1,7, 116,1, 13,1, 16,13, 101,1, 4,1, 2,10, 1,1, 3,5,
    6,1, 1,1, 1,1, 1,4, 1,11, 2,4, 5,5, 4,1, 52,2, 2683,229, 6,4, 3,2, 12,38, 1,1, 5,1, 2,56, 7,1, 16,23, 9,7, 1,7,
    1,7, 1,7, 1,7, 1,7, 1,7, 1,7, 80,1, 469,2, 42,5, 5,2, 4,86, 6,3, 1,90, 1,4, 5,43, 1,94, 17,32, 48,16, 512,6592,
    64,22157, 67,46, 2,269, 3,16, 10,2, 20,47, 16,31, 2,70, 49,9, 2,103, 2,67, 2,2, 1,1, 1,8, 21,16, 1,3, 1,4, 1,23,
    29,52, 14,50, 62,6, 3,1, 1,2, 11,28, 10,23, 25,29, 7,47, 28,1, 16,5, 1,10, 10,5, 1,41, 23,3, 1,8, 20,23, 3,1, 3,50,
    1,1, 3,2, 2,5, 2,1, 1,1, 24,3, 2,11, 7,3, 12,6, 2,6, 2,6, 9,7, 1,7, 1,43, 1,14, 6,115, 29,11172, 12,23, 4,49,
    8452,366, 2,106, 38,7, 12,5, 5,1, 1,10, 1,13, 1,5, 1,1, 1,2, 1,2, 1,108, 33,363, 18,64, 2,54, 40,12, 116,5, 1,135,
    36,26, 6,26, 11,89, 3,6, 2,6, 2,6, 2,3, 35,12, 1,26, 1,19, 1,2, 1,15, 2,14, 34,123, 389,29, 3,49, 47,32, 13,20,
    1,8, 6,38, 10,30, 2,36, 4,8, 48,158, 18,36, 4,36, 4,40, 8,52, 12,11, 1,15, 1,7, 1,2, 1,11, 1,15, 1,7, 1,2, 3,52,
    12,311, 9,22, 10,8, 24,6, 1,42, 1,9, 69,6, 2,1, 1,44, 1,2, 3,1, 2,23, 10,23, 9,31, 65,19, 1,2, 10,22, 10,26, 70,56,
    6,2, 64,1, 15,4, 1,3, 1,29, 42,29, 3,29, 35,8, 1,28, 27,54, 10,22, 10,19, 13,18, 110,73, 55,51, 13,51, 13,36,
    38,28, 9,23, 250,42, 6,2, 16,3, 59,29, 10,1, 8,22, 42,18, 46,21, 27,23, 12,53, 57,2, 2,1, 13,45, 32,25, 26,36,
    29,1, 2,1, 8,35, 3,1, 12,48, 14,4, 21,1, 1,1, 35,18, 1,25, 19,2, 63,7, 1,1, 1,4, 1,15, 1,10, 7,47, 38,8, 2,2, 2,22,
    1,7, 1,2, 1,5, 3,1, 18,1, 12,5, 30,10, 1,1, 2,1, 1,38, 1,1, 25,1, 1,1, 44,53, 18,4, 20,3, 30,48, 20,2, 1,1, 184,47,
    41,4, 36,48, 20,1, 59,43, 13,1, 71,27, 37,7, 185,44, 116,64, 31,8, 2,1, 2,8, 1,2, 1,24, 15,1, 1,1, 94,8, 2,39,
    16,1, 1,1, 28,1, 10,40, 7,1, 21,1, 11,46, 19,1, 18,73, 199,33, 31,9, 1,37, 17,1, 49,30, 112,7, 1,2, 1,38, 21,1,
    25,6, 1,2, 1,32, 14,1, 327,19, 15,1, 1,13, 1,34, 124,1, 79,922, 230,196, 2636,97, 15,1072, 17,6, 25,3995, 5,583,
    6841,30, 1762,569, 7,31, 17,79, 17,30, 18,48, 16,4, 31,21, 5,19, 432,45, 211,64, 128,75, 5,1, 66,13, 64,2, 1,1,
    28,6136, 8,1238, 41,10, 8935,4, 1,7, 1,2, 1,291, 15,1, 29,3, 2,1, 14,4, 8,396, 2308,107, 5,13, 3,9, 7,10, 5990,85,
    1,71, 1,2, 2,1, 2,2, 2,4, 1,12, 1,1, 1,7, 1,65, 1,4, 2,8, 1,7, 1,28, 1,4, 1,5, 1,1, 3,7, 1,340, 2,25, 1,25, 1,31,
    1,25, 1,31, 1,25, 1,31, 1,25, 1,31, 1,25, 1,8, 1844,31, 6,6, 261,62, 146,45, 10,7, 16,1, 321,30, 18,44, 484,28,
    228,30, 2,1, 495,7, 1,4, 1,2, 1,15, 1,197, 59,68, 7,1, 1204,4, 1,27, 1,2, 1,1, 2,1, 1,10, 1,4, 1,1, 1,1, 6,1, 4,1,
    1,1, 1,1, 1,3, 1,2, 1,1, 2,1, 1,1, 1,1, 1,1, 1,1, 1,2, 1,1, 2,4, 1,7, 1,4, 1,4, 1,1, 1,10, 1,17, 5,3, 1,5, 1,17,
    4420,42720, 32,4154, 6,222, 2,5762, 14,7473, 15,622, 2466,542, 1506,4939, 5,4192,
};
static const uint16_t unicode_numbers[] = {
    48,10, 120,2, 5,1, 2,3, 1441,10, 134,10, 198,10, 412,10, 118,10, 4,6, 108,10, 118,10, 118,10, 2,6, 110,13, 115,10,
    8,7, 103,10, 104,7, 7,19, 109,10, 96,10, 118,10, 70,20, 268,10, 70,10, 719,20, 881,3, 239,10, 6,10, 22,10, 300,10,
    128,11, 165,10, 6,10, 182,10, 86,10, 134,10, 6,10, 1046,1, 3,6, 6,10, 198,51, 2,5, 726,60, 78,22, 630,30, 1385,1,
    777,1, 25,9, 14,3, 343,4, 138,10, 30,8, 1,15, 32,10, 39,15, 29536,10, 188,10, 320,6, 154,10, 38,10, 198,10, 22,10,
    86,10, 406,10, 21270,10, 493,45, 12,57, 17,2, 341,27, 36,4, 29,1, 8,1, 134,5, 202,10, 942,8, 25,7, 39,9, 75,5,
    22,6, 160,2, 2,16, 2,46, 64,9, 52,2, 30,3, 75,5, 104,8, 24,8, 41,7, 330,6, 48,10, 6,10, 278,31, 158,10, 42,4,
    112,7, 134,30, 128,10, 60,10, 144,10, 7,20, 251,10, 342,10, 118,10, 374,10, 102,10, 6,20, 76,12, 420,19, 93,10,
    662,10, 86,29, 227,10, 70,10, 422,10, 102,21, 1067,111, 15553,10, 2342,10, 86,10, 134,10, 1,7, 526,10, 262,23,
    24153,10, 1478,20, 12,20, 108,25, 1109,50, 2368,10, 422,10, 502,10, 247,10, 716,9, 128,10, 791,59, 1,3, 1,4, 76,45,
    1,15, 962,13, 2787,10,
};
static const uint16_t unicode_spaces[] = {
    9,5, 18,1, 100,1, 26,1, 5599,1, 2431,11, 29,2, 5,1, 47,1, 4000,1,
};

enum { OTHER, LETTER, NUMBER, SPACE };
static unsigned char unicode_class[UNICODE_END]; // the three tables, opened; above UNICODE_END all are OTHER

// Opens one table into unicode_class.
static void unicode_open(const uint16_t *table, size_t count, int class) {
    size_t code = 0;
    for (size_t i = 0; i < count; i += 2) {
        memset(unicode_class + code + table[i], class, table[i + 1]);
        code += table[i] + table[i + 1];
    }
}

// Returns the class and the length of the character at s, of n > 0 bytes. A byte that is not valid UTF-8 is one OTHER.
static inline int character(const char *s, size_t n, size_t *length) {
    uint32_t code;
    *length = 1;
    if ((unsigned char)*s < 0x80) return unicode_class[(unsigned char)*s];
    int bytes = utf8_decode(s, n, &code);
    if (bytes == 0) return OTHER;
    *length = (size_t)bytes;
    return code < UNICODE_END ? unicode_class[code] : OTHER;
}

// GPT-2 writes the bytes of a token as characters that can be seen: byte b is the character byte_code[b]. 188 bytes
// stand for themselves; the others, the space among them, are moved to 256 and up. The ids 0 to 255 are in that order.
static uint16_t byte_code[256];
static unsigned char id_byte[256], byte_id[256];

// Fills the tables of this room. It has to come before everything that cuts words or looks at tokens.
static void characters_open(void) {
    int id = 0, moved = 256;
    unicode_open(unicode_letters, sizeof unicode_letters / sizeof(uint16_t), LETTER);
    unicode_open(unicode_numbers, sizeof unicode_numbers / sizeof(uint16_t), NUMBER);
    unicode_open(unicode_spaces, sizeof unicode_spaces / sizeof(uint16_t), SPACE);
    for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < 256; b++) {
            int seen = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
            if (seen != (pass == 0)) continue;
            byte_code[b] = (uint16_t)(seen ? b : moved++);
            byte_id[b] = (unsigned char)id;
            id_byte[id++] = (unsigned char)b;
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON: one small reader, for vocabularies, configurations and the headers of safetensors. A text becomes a tree.

typedef struct Json {
    char type;                 // '{' object, '[' list, '"' string, '0' number, 't' true, 'f' false, 'n' null
    char *key;                 // its name, if it is a member of an object
    char *string;              // of a string: its bytes, with a NUL behind them
    size_t length;             //              and how many there are
    double number;             // of a number
    struct Json *child, *next; // of an object or a list: the first thing in it; the thing after this one
} Json;

typedef struct { const char *name, *text; size_t size, at; } JsonReader;

enum { JSON_DEPTH = 64 };

// Dies, saying where the text is wrong, what had to be there and what is.
static _Noreturn void json_fail(const JsonReader *r, const char *expected) {
    char found[24] = "the end";
    unsigned char c = r->at < r->size ? (unsigned char)r->text[r->at] : 0;
    if (r->at < r->size) snprintf(found, sizeof found, c > 32 && c < 127 ? "'%c'" : "byte 0x%02x", c);
    die("%s: JSON: expected %s at byte %zu, found %s", r->name, expected, r->at, found);
}

// Returns the next byte without taking it; 0, which is valid nowhere in JSON, at the end.
static char json_peek(const JsonReader *r) {
    return r->at < r->size ? r->text[r->at] : 0;
}

// The same, after white space.
static char json_peek_word(JsonReader *r) {
    while (json_peek(r) == ' ' || json_peek(r) == '\t' || json_peek(r) == '\n' || json_peek(r) == '\r') r->at++;
    return json_peek(r);
}

// Takes the four hexadecimal digits of a \u escape.
static uint32_t json_hex(JsonReader *r) {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        char c = json_peek(r);
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) json_fail(r, "a hexadecimal digit");
        code = code << 4 | (uint32_t)digit;
    }
    return code;
}

// Takes a string. Returns its bytes with a NUL behind them, to be freed, and how many there are.
static char *json_string(JsonReader *r, size_t *length) {
    static const char escapes[] = "\"\\/bfnrt", escaped[] = "\"\\/\b\f\n\r\t";
    if (json_peek_word(r) != '"') json_fail(r, "'\"'");
    size_t end = ++r->at, n = 0;
    while (end < r->size && r->text[end] != '"') end += r->text[end] == '\\' ? 2 : 1;
    char *string = allocate((end < r->size ? end : r->size) - r->at + 5, 1); // escapes only ever shrink
    while (json_peek(r) != '"') {
        unsigned char c = (unsigned char)json_peek(r);
        if (c < 32) json_fail(r, r->at < r->size ? "no control character in a string" : "'\"'");
        r->at++;
        if (c != '\\') {
            string[n++] = (char)c;
            continue;
        }
        const char *escape = json_peek(r) ? strchr(escapes, json_peek(r)) : NULL;
        if (escape) {
            string[n++] = escaped[escape - escapes];
            r->at++;
            continue;
        }
        if (json_peek(r) != 'u') json_fail(r, "an escape");
        r->at++;
        uint32_t code = json_hex(r);
        if (code >= 0xd800 && code < 0xdc00 && r->size - r->at > 2 && memcmp(r->text + r->at, "\\u", 2) == 0) {
            r->at += 2;
            uint32_t low = json_hex(r);
            if (low >= 0xdc00 && low < 0xe000) code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
        }
        if (code >= 0xd800 && code < 0xe000) json_fail(r, "a pair of surrogates before");
        n += (size_t)utf8_encode(code, string + n);
    }
    r->at++;
    *length = n;
    return string;
}

// Takes one or more digits.
static void json_digits(JsonReader *r) {
    if (json_peek(r) < '0' || json_peek(r) > '9') json_fail(r, "a digit");
    while (json_peek(r) >= '0' && json_peek(r) <= '9') r->at++;
}

// Takes a number and returns it.
static double json_number(JsonReader *r) {
    char copy[64] = "";
    size_t start = r->at;
    if (json_peek(r) == '-') r->at++;
    if (json_peek(r) == '0') r->at++;
    else json_digits(r);
    if (json_peek(r) == '.') {
        r->at++;
        json_digits(r);
    }
    if ((json_peek(r) | 32) == 'e') {
        r->at++;
        if (json_peek(r) == '+' || json_peek(r) == '-') r->at++;
        json_digits(r);
    }
    if (r->at - start >= sizeof copy) json_fail(r, "a number of fewer digits");
    memcpy(copy, r->text + start, r->at - start); // strtod wants a NUL, which the text need not have
    return strtod(copy, NULL);
}

// Takes a value, at this depth of objects and lists, and returns its tree.
static Json *json_value(JsonReader *r, int depth) {
    static const char *const words[] = {"true", "false", "null"};
    Json *value = allocate(1, sizeof *value);
    char c = json_peek_word(r);
    value->type = c == '-' || (c >= '0' && c <= '9') ? '0' : c;
    if (value->type == '"') {
        value->string = json_string(r, &value->length);
    } else if (value->type == '0') {
        value->number = json_number(r);
    } else if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';
        Json **last = &value->child;
        if (depth == JSON_DEPTH) json_fail(r, "no deeper nesting");
        r->at++;
        while (json_peek_word(r) != close) {
            char *key = NULL;
            size_t length;
            if (value->child && json_peek(r) != ',') json_fail(r, c == '{' ? "',' or '}'" : "',' or ']'");
            if (value->child) r->at++;
            if (c == '{') {
                key = json_string(r, &length);
                if (memchr(key, 0, length)) json_fail(r, "no NUL in the key before");
                if (json_peek_word(r) != ':') json_fail(r, "':'");
                r->at++;
            }
            *last = json_value(r, depth + 1);
            (*last)->key = key;
            last = &(*last)->next;
        }
        r->at++;
    } else {
        int i = 0;
        while (i < 3 && (r->size - r->at < strlen(words[i]) || memcmp(r->text + r->at, words[i], strlen(words[i])))) i++;
        if (i == 3) json_fail(r, "a value");
        r->at += strlen(words[i]);
    }
    return value;
}

// Reads a JSON text of `size` bytes into a tree, to be freed with json_free. Dies if the text is not exactly one JSON
// value; `name` says in the message what it is the text of. It does not look for keys that are there twice.
static Json *json_parse(const char *name, const char *text, size_t size) {
    JsonReader reader = {name, text, size, 0};
    Json *value = json_value(&reader, 0);
    json_peek_word(&reader);
    if (reader.at < size) json_fail(&reader, "the end");
    return value;
}

// Returns an object's member, NULL if it has none of this name. Dies if it has two: no one could say which is meant.
static Json *json_get(const Json *object, const char *key) {
    Json *found = NULL;
    for (Json *member = object->child; member; member = member->next) {
        if (!member->key || strcmp(member->key, key)) continue;
        if (found) die("JSON: the key \"%s\" is there twice", key);
        found = member;
    }
    return found;
}

// Frees a tree.
static void json_free(Json *value) {
    while (value) {
        Json *next = value->next;
        json_free(value->child);
        free(value->key);
        free(value->string);
        free(value);
        value = next;
    }
}

// Writes bytes as a JSON string, in ASCII, as GPT-2's vocab.json has them. What is not valid UTF-8 becomes U+FFFD.
static void json_write_string(FILE *file, const char *bytes, size_t size) {
    fputc('"', file);
    for (size_t i = 0; i < size;) {
        uint32_t code = 0xfffd;
        int length = utf8_decode(bytes + i, size - i, &code);
        i += length ? (size_t)length : 1;
        if (code == '"' || code == '\\') fprintf(file, "\\%c", (int)code);
        else if (code == '\n') fputs("\\n", file);
        else if (code >= 32 && code < 128) fputc((int)code, file);
        else if (code < 0x10000) fprintf(file, "\\u%04x", code);
        else fprintf(file, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + (code & 0x3ff));
    }
    fputc('"', file);
}

// ---------------------------------------------------------------------------------------------------------------------
// Words: how a text is cut before anything is merged. No token reaches from one word into the next.

// Returns the length of the word at s, of n > 0 bytes of text: the first match of GPT-2's pattern,
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t word_length(const char *s, size_t n) {
    size_t length, last = 0, end = 0;
    if (s[0] == '\'' && n > 1) {
        if (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd') return 2;
        if (n > 2 && ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') || (s[1] == 'l' && s[2] == 'l'))) return 3;
    }
    if (s[0] == ' ' && n > 1 && character(s + 1, n - 1, &length) != SPACE) end = 1;
    int class = character(s + end, n - end, &length);
    do {
        last = end;
        end += length;
    } while (end < n && character(s + end, n - end, &length) == class);
    // Spaces leave the last of them to the word behind them, unless it is the only one.
    return class == SPACE && end < n && last > 0 ? last : end;
}

// ---------------------------------------------------------------------------------------------------------------------
// The vocabulary: the 256 bytes, then one token for every merge, then <|endoftext|>, which closes a document.

enum { TOKENS_MIN = 257, TOKENS_MAX = 65535 }; // ids are 16 bits wide in files
static const char end_of_text[] = "<|endoftext|>"; // in vocab.json only: in a text these are 13 ordinary bytes

typedef struct { uint32_t pair, id; } Merge;    // left id << 16 | right id, and what they become; id 0: no merge

enum { CACHE_SLOTS = 1 << 15, CACHE_BYTES = 30, CACHE_IDS = 16 };
typedef struct { unsigned char size, count; char word[CACHE_BYTES]; uint16_t ids[CACHE_IDS]; } CachedWord;

typedef struct { uint32_t id, previous, next; } Piece; // of a word while it is merged: a doubly linked list
typedef struct {
    CachedWord words[CACHE_SLOTS]; // a word is kept in the slot that its hash names, until another takes it
    Piece *pieces;
    size_t pieces_capacity;
    Heap heap;
} Workspace;

typedef struct Tokenizer {
    int size;               // number of tokens; the last is <|endoftext|>
    char *bytes;            // the bytes of all tokens, one behind the other
    size_t *start;          // (size + 1) token id is bytes[start[id]] up to bytes[start[id + 1]]
    uint16_t (*merges)[2];  // (size - 257) token 256 + k is merges[k][0] followed by merges[k][1]
    Merge *table;           // the same merges by pair, an open hash table of 1 << table_bits slots
    int table_bits;
    Workspace *work;        // what encoding remembers and reuses: so one thread at a time
} Tokenizer;

// Returns the slot of the hash table where this pair is, or the empty one where it would be.
static inline Merge *merge_slot(const Tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t pair = left << 16 | right, mask = (1u << t->table_bits) - 1;
    uint32_t slot = (pair * 2654435769u) >> (32 - t->table_bits);
    while (t->table[slot].id && t->table[slot].pair != pair) slot = (slot + 1) & mask;
    return t->table + slot;
}

// Returns the tokenizer that a list of merges defines, and keeps the list. characters_open must have been called.
static Tokenizer *tokenizer_new(uint16_t (*merges)[2], int count) {
    Tokenizer *t = allocate(1, sizeof *t);
    t->size = TOKENS_MIN + count;
    t->merges = merges;
    t->start = allocate((size_t)t->size + 1, sizeof *t->start);
    t->work = allocate(1, sizeof *t->work);
    for (t->table_bits = 4; (1 << t->table_bits) < 2 * count;) t->table_bits++;
    t->table = allocate((size_t)1 << t->table_bits, sizeof *t->table);
    for (int id = 0; id < t->size; id++) { // lengths first, to know how much memory the bytes take
        size_t length = 1;
        if (id >= 256 && id < t->size - 1) {
            const uint16_t *pair = merges[id - 256];
            length = t->start[pair[0] + 1] - t->start[pair[0]] + t->start[pair[1] + 1] - t->start[pair[1]];
        }
        t->start[id + 1] = t->start[id] + length;
    }
    t->bytes = allocate(t->start[t->size], 1);
    memcpy(t->bytes, id_byte, 256);
    for (int id = 256; id < t->size - 1; id++) {
        const uint16_t *pair = merges[id - 256];
        char *to = t->bytes + t->start[id];
        for (int side = 0; side < 2; side++) {
            size_t length = t->start[pair[side] + 1] - t->start[pair[side]];
            memcpy(to, t->bytes + t->start[pair[side]], length);
            to += length;
        }
        *merge_slot(t, pair[0], pair[1]) = (Merge){(uint32_t)pair[0] << 16 | pair[1], (uint32_t)id};
    }
    t->bytes[t->start[t->size - 1]] = '\n';
    return t;
}

// Frees a tokenizer.
static void tokenizer_free(Tokenizer *t) {
    free(t->bytes);
    free(t->start);
    free(t->merges);
    free(t->table);
    free(t->work->pieces);
    free(t->work->heap.entries);
    free(t->work);
    free(t);
}

// Returns the bytes of a token, 0 <= id < size, with no NUL behind them: a text is decoded by putting its tokens' bytes
// one behind the other. Those of <|endoftext|> are a newline: it stands where a line, or a file, ends.
static const char *tokenizer_bytes(const Tokenizer *t, int id, size_t *length) {
    *length = t->start[id + 1] - t->start[id];
    return t->bytes + t->start[id];
}

// Returns a fingerprint of the vocabulary, never 0: the FNV-1a hash, over all tokens in the order of their ids, of the
// length, as 4 bytes, and then the bytes.
static uint32_t tokenizer_hash(const Tokenizer *t) {
    uint32_t hash = FNV_START;
    for (int id = 0; id < t->size; id++) {
        size_t length;
        const char *bytes = tokenizer_bytes(t, id, &length);
        uint32_t length32 = (uint32_t)length;
        hash = fnv1a(fnv1a(hash, &length32, 4), bytes, length);
    }
    return hash ? hash : 1;
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding: text to ids.

// Offers the merge of the piece at `left` with the one behind it, if there is such a merge, to the heap.
static inline void offer_merge(const Tokenizer *t, uint32_t left) {
    const Piece *piece = t->work->pieces + left;
    if (piece->next == UINT32_MAX) return;
    uint32_t id = merge_slot(t, piece->id, t->work->pieces[piece->next].id)->id;
    if (id) heap_push(&t->work->heap, id, left);
}

// Encodes one word of n bytes into ids, which has room for n, and returns how many there are. It merges the pair that
// makes the lowest id, the leftmost of equals, until no pair can be merged. The heap has every possible merge, so a
// word of n bytes takes n log n, were it a million spaces; pairs that are gone by their turn are passed over.
static size_t encode_word(const Tokenizer *t, const char *word, size_t n, uint16_t *ids) {
    Workspace *work = t->work;
    if (n >= UINT32_MAX) die("a word of %zu bytes is too long", n);
    work->pieces = grow(work->pieces, &work->pieces_capacity, n, sizeof(Piece));
    Piece *pieces = work->pieces;
    for (uint32_t i = 0; i < n; i++) pieces[i] = (Piece){byte_id[(unsigned char)word[i]], i - 1, i + 1};
    pieces[n - 1].next = UINT32_MAX; // and so is pieces[0].previous: there is none
    for (uint32_t i = 0; i + 1 < n; i++) offer_merge(t, i);
    while (work->heap.count > 0) {
        Entry entry = heap_pop(&work->heap);
        Piece *left = pieces + entry.item;
        if (left->id == UINT32_MAX || left->next == UINT32_MAX) continue; // swallowed, or last by now
        Piece *right = pieces + left->next;
        if (merge_slot(t, left->id, right->id)->id != entry.order) continue;
        left->id = (uint32_t)entry.order;
        left->next = right->next;
        right->id = UINT32_MAX;
        if (left->next != UINT32_MAX) pieces[left->next].previous = (uint32_t)entry.item;
        offer_merge(t, (uint32_t)entry.item);
        if (left->previous != UINT32_MAX) offer_merge(t, left->previous);
    }
    size_t count = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = pieces[i].next) ids[count++] = (uint16_t)pieces[i].id;
    return count;
}

// Encodes a text of any bytes. Returns the ids, to be freed, and how many there are. "<|endoftext|>" in the text is
// text; the id of that name never comes out. Not for two threads at once on one tokenizer, which remembers words.
static int *tokenizer_encode(const Tokenizer *t, const char *text, size_t size, size_t *count) {
    int *ids = NULL;
    uint16_t *long_ids = NULL;
    size_t capacity = 0, long_capacity = 0, total = 0;
    ids = grow(ids, &capacity, size / 4 + 1, sizeof *ids);
    for (size_t at = 0, n; at < size; at += n) {
        const char *word = text + at;
        const uint16_t *found;
        size_t found_count;
        n = word_length(word, size - at);
        CachedWord *slot = t->work->words + fnv1a(FNV_START, word, n <= CACHE_BYTES ? n : 0) % CACHE_SLOTS;
        if (slot->size == n && memcmp(slot->word, word, n) == 0) {
            found = slot->ids;
            found_count = slot->count;
        } else {
            long_ids = grow(long_ids, &long_capacity, n, sizeof *long_ids);
            found_count = encode_word(t, word, n, long_ids);
            found = long_ids;
            if (n <= CACHE_BYTES && found_count <= CACHE_IDS) {
                slot->size = (unsigned char)n;
                slot->count = (unsigned char)found_count;
                memcpy(slot->word, word, n);
                memcpy(slot->ids, long_ids, found_count * sizeof *long_ids);
            }
        }
        ids = grow(ids, &capacity, total + found_count, sizeof *ids);
        for (size_t i = 0; i < found_count; i++) ids[total++] = found[i];
    }
    free(long_ids);
    *count = total;
    return ids;
}

// ---------------------------------------------------------------------------------------------------------------------
// The vocabulary's files, GPT-2's: vocab.json gives every token its id, merges.txt has a line for each merge, in order.

// Returns the name of a token in those files, its bytes as byte_code's characters, to be freed.
static char *token_name(const Tokenizer *t, int id) {
    size_t length, n = 0;
    const char *bytes = tokenizer_bytes(t, id, &length);
    if (id == t->size - 1) {
        bytes = end_of_text;
        length = strlen(end_of_text);
    }
    char *name = allocate(2 * length + 1, 1);
    for (size_t i = 0; i < length; i++) n += (size_t)utf8_encode(byte_code[(unsigned char)bytes[i]], name + n);
    return name;
}

// Writes vocab.json and merges.txt into a folder, which is created if it is not there. Dies if that cannot be done.
static void tokenizer_save(const Tokenizer *t, const char *folder) {
    make_folder(folder);
    char *vocab_path = path_in(folder, "vocab.json"), *merges_path = path_in(folder, "merges.txt");
    char **names = allocate((size_t)t->size, sizeof *names);
    FILE *file = output_open(vocab_path);
    for (int id = 0; id < t->size; id++) {
        names[id] = token_name(t, id);
        fputs(id == 0 ? "{" : ", ", file);
        json_write_string(file, names[id], strlen(names[id]));
        fprintf(file, ": %d", id);
    }
    fputs("}", file);
    output_close(file);
    file = output_open(merges_path);
    fputs("#version: 0.2\n", file);
    for (int k = 0; k < t->size - TOKENS_MIN; k++) fprintf(file, "%s %s\n", names[t->merges[k][0]], names[t->merges[k][1]]);
    output_close(file);
    for (int id = 0; id < t->size; id++) free(names[id]);
    free(names);
    free(vocab_path);
    free(merges_path);
}

// The names in a vocab.json, to find a token's id by its name.
typedef struct {
    const char **names; // (size) by id
    int *slots;         // an open hash table: id + 1, or 0
    uint32_t mask;
    int size;
} Names;

// Returns the slot that has the id + 1 of the token with this name, of n bytes, or the 0 where it would be.
static int *names_slot(const Names *names, const char *name, size_t n) {
    uint32_t slot = fnv1a(FNV_START, name, n) & names->mask;
    for (; names->slots[slot]; slot = (slot + 1) & names->mask) {
        const char *other = names->names[names->slots[slot] - 1];
        if (strlen(other) == n && memcmp(other, name, n) == 0) break;
    }
    return names->slots + slot;
}

// Collects the names of a parsed vocab.json. Dies unless it has 257 tokens or more, every id from 0 up once and every
// name once, the 256 bytes first, in GPT-2's order, and <|endoftext|> last.
static Names names_read(const char *path, const Json *vocab) {
    Names names = {0};
    if (vocab->type != '{') die("%s: expected an object that gives every token its id", path);
    for (const Json *token = vocab->child; token; token = token->next) {
        if (++names.size > TOKENS_MAX) die("%s: more than %d tokens: their ids do not fit 16 bits", path, TOKENS_MAX);
    }
    if (names.size < TOKENS_MIN)
        die("%s: %d tokens: expected the 256 bytes and <|endoftext|> at least", path, names.size);
    for (names.mask = 1; names.mask < 2 * (uint32_t)names.size;) names.mask = names.mask << 1 | 1;
    names.names = allocate((size_t)names.size, sizeof *names.names);
    names.slots = allocate((size_t)names.mask + 1, sizeof *names.slots);
    for (const Json *token = vocab->child; token; token = token->next) {
        int id = token->type == '0' && token->number >= 0 && token->number < names.size ? (int)token->number : -1;
        if (id < 0 || id != token->number)
            die("%s: the id of \"%.99s\" is not a whole number from 0 to %d, as there are %d tokens", path, token->key,
                names.size - 1, names.size);
        if (names.names[id]) die("%s: id %d is both \"%.99s\" and \"%.99s\"", path, id, names.names[id], token->key);
        names.names[id] = token->key;
        int *slot = names_slot(&names, token->key, strlen(token->key));
        if (*slot) die("%s: \"%.99s\" is there twice, as id %d and as id %d", path, token->key, *slot - 1, id);
        *slot = id + 1;
    }
    for (int id = 0; id < 256; id++) {
        char name[5] = "";
        utf8_encode(byte_code[id_byte[id]], name);
        if (strcmp(names.names[id], name))
            die("%s: id %d is \"%.99s\", expected \"%s\", which stands for byte 0x%02x: ids 0 to 255 are the bytes", path, id,
                names.names[id], name, id_byte[id]);
    }
    if (strcmp(names.names[names.size - 1], end_of_text))
        die("%s: the last id, %d, is \"%.99s\", expected \"%s\"", path, names.size - 1, names.names[names.size - 1], end_of_text);
    return names;
}

// Reads the next line of merges.txt, which starts at `line` and ends before `end`, as merge number k. Dies, naming the
// line, unless it has two tokens, both made before, that put together are token 256 + k.
static void merge_read(const char *path, const Names *names, int k, const char *line, size_t n, uint16_t *merge) {
    const char *space = memchr(line, ' ', n), *side[2] = {line, space ? space + 1 : line};
    if (!space) die("%s: line %d: expected two tokens with a space between them, found \"%.*s\"", path, k + 2, (int)(n < 99 ? n : 99), line);
    size_t length[2] = {(size_t)(space - line), n - (size_t)(space - line) - 1};
    const char *whole = names->names[256 + k];
    for (int i = 0; i < 2; i++) {
        int id = *names_slot(names, side[i], length[i]) - 1;
        if (id < 0 || id >= 256 + k)
            die("%s: line %d: \"%.*s\" is %s", path, k + 2, (int)(length[i] < 99 ? length[i] : 99), side[i],
                id < 0 ? "not in vocab.json" : "made by no line before");
        merge[i] = (uint16_t)id;
    }
    if (strlen(whole) != n - 1 || memcmp(whole, side[0], length[0]) || memcmp(whole + length[0], side[1], length[1]))
        die("%s: line %d makes \"%.*s%.*s\", but id %d in vocab.json is \"%.99s\"", path, k + 2,
            (int)(length[0] < 99 ? length[0] : 99), side[0], (int)(length[1] < 99 ? length[1] : 99), side[1], 256 + k, whole);
}

// Reads FOLDER/vocab.json and FOLDER/merges.txt. Dies, in one line that says what was found and what was expected,
// unless they are well-formed and agree: merge k makes token 256 + k, and encoding a token's bytes gives its id.
static Tokenizer *tokenizer_load(const char *folder) {
    char *vocab_path = path_in(folder, "vocab.json"), *merges_path = path_in(folder, "merges.txt");
    size_t size;
    characters_open();
    char *text = read_file(vocab_path, &size);
    Json *vocab = json_parse(vocab_path, text, size);
    free(text);
    Names names = names_read(vocab_path, vocab);
    int count = names.size - TOKENS_MIN, k = 0;
    uint16_t (*merges)[2] = allocate((size_t)count, sizeof *merges);
    text = read_file(merges_path, &size);
    char *line = text, *end = text + size;
    if (strncmp(text, "#version", 8)) die("%s: line 1: expected \"#version: 0.2\"", merges_path);
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line < end) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (k == count) die("%s: line %d: expected no more than %d merges, for %d tokens", merges_path, k + 2, count, names.size);
        merge_read(merges_path, &names, k, line, (size_t)((stop ? stop : end) - line), merges[k]);
        k++;
    }
    if (k < count) die("%s: %d merges, expected %d, for the %d tokens of vocab.json", merges_path, k, count, names.size);
    Tokenizer *t = tokenizer_new(merges, count);
    for (int id = 256; id < t->size - 1; id++) {
        size_t length;
        const char *bytes = tokenizer_bytes(t, id, &length);
        uint16_t *ids = allocate(length, sizeof *ids);
        if (encode_word(t, bytes, length, ids) != 1 || ids[0] != id)
            die("%s: line %d can never be applied: the lines before it merge \"%.99s\" otherwise", merges_path, id - 254, names.names[id]);
        free(ids);
    }
    free(names.names);
    free(names.slots);
    free(text);
    free(vocab_path);
    free(merges_path);
    json_free(vocab);
    return t;
}

enum { TOKENS_MAGIC = 20240520, TOKENS_VERSION = 1, TOKENS_HEADER = 256 }; // llm.c's token files: see the room "tokens.bin"

#pragma GCC diagnostic pop
#ifndef TOKENIZER_LIBRARY

// ---------------------------------------------------------------------------------------------------------------------
// Reading text in pieces, so that a text need not fit in memory.

typedef struct {
    FILE *file;
    const char *path;
    char *buffer;
    size_t start, end, capacity; // what is read and not yet given out is buffer[start] up to buffer[end]
    int ended;                   // has the file no more?
} Input;

static const size_t NOWHERE = SIZE_MAX;

// Reads more of the file behind what there is, as much as the buffer takes, which doubles if it is full.
static void input_fill(Input *in) {
    memmove(in->buffer, in->buffer + in->start, in->end - in->start);
    in->end -= in->start;
    in->start = 0;
    if (in->end == in->capacity) in->buffer = grow(in->buffer, &in->capacity, in->end + (1 << 20), 1);
    size_t got = fread(in->buffer + in->end, 1, in->capacity - in->end, in->file);
    if (ferror(in->file)) die("%s: %s", in->path, strerror(errno));
    in->end += got;
    in->ended = got == 0;
}

// Is there a new word at buffer[at], whatever comes before and behind? There is where an ASCII space follows a
// character that is no space: the word of that character ends with it.
static int input_may_cut(const Input *in, size_t at) {
    const char *here = in->buffer + at;
    size_t length;
    if ((unsigned char)*here >= 0x80 || unicode_class[(unsigned char)*here] != SPACE) return 0;
    for (size_t back = 2; back <= 4 && back <= at - in->start; back++) // a longer character that ends here?
        if (character(here - back, back, &length) == SPACE && length == back) return 0;
    return unicode_class[(unsigned char)here[-1]] != SPACE || (unsigned char)here[-1] >= 0x80;
}

// Returns where the next piece of the text ends in the buffer: with `lines` at a newline, otherwise at the last place
// where a cut is safe; NOWHERE if there is no such place yet.
static size_t input_cut(const Input *in, int lines) {
    if (lines) {
        const char *newline = in->end > in->start ? memchr(in->buffer + in->start, '\n', in->end - in->start) : NULL;
        return newline ? (size_t)(newline - in->buffer) : NOWHERE;
    }
    for (size_t at = in->end; at-- > in->start + 1;) if (input_may_cut(in, at)) return at;
    return NOWHERE;
}

// Opens a text to read in pieces; "-" is standard input. Dies if it cannot be opened.
static Input input_open(const char *path) {
    return (Input){.file = open_file(path), .path = path};
}

// Gives the next piece: with `lines`, a line without its newline; otherwise as many words as are at hand. It is good
// until the next call. Returns 0, and closes the file, at its end; dies if reading fails.
static int input_next(Input *in, int lines, const char **piece, size_t *size) {
    size_t cut;
    while ((cut = input_cut(in, lines)) == NOWHERE && !in->ended) input_fill(in);
    if (cut == NOWHERE && in->start == in->end) {
        free(in->buffer);
        if (in->file != stdin) fclose(in->file);
        return 0;
    }
    *piece = in->buffer + in->start;
    *size = (cut == NOWHERE ? in->end : cut) - in->start;
    in->start = cut == NOWHERE ? in->end : lines ? cut + 1 : cut;
    return 1;
}

// ---------------------------------------------------------------------------------------------------------------------
// Training: count the distinct words, then merge the most frequent pair of neighbours, again and again. Only words that
// contain the pair are looked at, and only the pairs beside it change their counts.

typedef struct { uint64_t count; size_t start; uint32_t size, hash; } Word; // its bytes are arena[start] and on

typedef struct {
    uint64_t count;   // how often this pair of neighbours occurs in the text
    uint32_t pair;    // left id << 16 | right id
    uint32_t *words;  // every word that contains it, and perhaps some that no longer do; NULL: an empty slot
    size_t word_count, word_capacity;
} Pair;

typedef struct {
    Word *words;         // the distinct words
    size_t word_count, word_capacity;
    uint32_t *slots;     // an open hash table of them: index + 1, or 0
    size_t slot_count;
    char *arena;         // their bytes, one behind the other
    size_t arena_size, arena_capacity;
    uint16_t *ids;       // the same as tokens, as merged so far: word w is ids[w.start] and on, w.size of them
    Pair *pairs;         // an open hash table of all pairs
    size_t pair_count, pair_slots;
    uint32_t *fresh;     // pairs that are not yet in the heap
    size_t fresh_count, fresh_capacity;
    Heap heap;           // pairs by count; when an entry's count is out of date, it is higher than the true one
} Trainer;

// Returns the slot of the table of words that has this word, or the empty one where it would be.
static uint32_t *word_slot(const Trainer *tr, const char *bytes, size_t size, uint32_t hash) {
    size_t slot = hash & (tr->slot_count - 1);
    for (; tr->slots[slot]; slot = (slot + 1) & (tr->slot_count - 1)) {
        const Word *word = tr->words + tr->slots[slot] - 1;
        if (word->hash == hash && word->size == size && memcmp(tr->arena + word->start, bytes, size) == 0) break;
    }
    return tr->slots + slot;
}

// Counts one word of the text.
static void count_word(Trainer *tr, const char *bytes, size_t size) {
    uint32_t hash = fnv1a(FNV_START, bytes, size), *slot;
    if (2 * (tr->word_count + 1) > tr->slot_count) { // at most half full
        free(tr->slots);
        tr->slot_count = tr->slot_count ? 2 * tr->slot_count : 1 << 16;
        tr->slots = allocate(tr->slot_count, sizeof *tr->slots);
        for (size_t w = 0; w < tr->word_count; w++) {
            const Word *word = tr->words + w;
            *word_slot(tr, tr->arena + word->start, word->size, word->hash) = (uint32_t)w + 1;
        }
    }
    slot = word_slot(tr, bytes, size, hash);
    if (!*slot) {
        if (size >= UINT32_MAX || tr->word_count >= UINT32_MAX - 1) die("the text has too long a word, or too many words");
        tr->words = grow(tr->words, &tr->word_capacity, tr->word_count + 1, sizeof *tr->words);
        tr->arena = grow(tr->arena, &tr->arena_capacity, tr->arena_size + size, 1);
        memcpy(tr->arena + tr->arena_size, bytes, size);
        tr->words[tr->word_count++] = (Word){0, tr->arena_size, (uint32_t)size, hash};
        tr->arena_size += size;
        *slot = (uint32_t)tr->word_count;
    }
    tr->words[*slot - 1].count++;
}

// Returns the slot of the table of pairs that has this pair, or the empty one where it would be.
static Pair *pair_slot(const Trainer *tr, uint32_t pair) {
    size_t mask = tr->pair_slots - 1, slot = (pair * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (tr->pairs[slot].words && tr->pairs[slot].pair != pair) slot = (slot + 1) & mask;
    return tr->pairs + slot;
}

// Notes that word w has this pair once more.
static void add_pair(Trainer *tr, uint32_t left, uint32_t right, uint32_t w) {
    if (2 * (tr->pair_count + 1) > tr->pair_slots) { // at most half full
        Pair *old = tr->pairs;
        size_t old_slots = tr->pair_slots;
        tr->pair_slots = old_slots ? 2 * old_slots : 1 << 12;
        tr->pairs = allocate(tr->pair_slots, sizeof *tr->pairs);
        for (size_t i = 0; i < old_slots; i++) if (old[i].words) *pair_slot(tr, old[i].pair) = old[i];
        free(old);
    }
    Pair *pair = pair_slot(tr, left << 16 | right);
    if (!pair->words) {
        pair->pair = left << 16 | right;
        tr->pair_count++;
        tr->fresh = grow(tr->fresh, &tr->fresh_capacity, tr->fresh_count + 1, sizeof *tr->fresh);
        tr->fresh[tr->fresh_count++] = pair->pair;
    }
    pair->count += tr->words[w].count;
    if (pair->word_count > 0 && pair->words[pair->word_count - 1] == w) return;
    pair->words = grow(pair->words, &pair->word_capacity, pair->word_count + 1, sizeof *pair->words);
    pair->words[pair->word_count++] = w;
}

// Notes that word w has this pair once less. The pair is in the table.
static void remove_pair(Trainer *tr, uint32_t left, uint32_t right, uint32_t w) {
    pair_slot(tr, left << 16 | right)->count -= tr->words[w].count;
}

// Puts the fresh pairs into the heap, which gives the highest count first and among equals the lowest pair. A pair's
// count can only fall after that: all its occurrences are made at once, when its younger token is.
static void heap_fresh(Trainer *tr) {
    for (size_t i = 0; i < tr->fresh_count; i++)
        heap_push(&tr->heap, UINT64_MAX - pair_slot(tr, tr->fresh[i])->count, tr->fresh[i]);
    tr->fresh_count = 0;
}

// Merges left and right into id wherever they are neighbours in word w, from its start on.
static void merge_in_word(Trainer *tr, uint32_t w, uint32_t left, uint32_t right, uint32_t id) {
    Word *word = tr->words + w;
    uint16_t *ids = tr->ids + word->start;
    uint32_t size = 0;
    for (uint32_t i = 0; i < word->size; i++) {
        if (ids[i] != left || i + 1 == word->size || ids[i + 1] != right) {
            ids[size++] = ids[i];
            continue;
        }
        if (size > 0) {
            remove_pair(tr, ids[size - 1], left, w);
            add_pair(tr, ids[size - 1], id, w);
        }
        if (i + 2 < word->size) {
            remove_pair(tr, right, ids[i + 2], w);
            add_pair(tr, id, ids[i + 2], w);
        }
        ids[size++] = (uint16_t)id;
        i++;
    }
    word->size = size;
}

// Finds up to `count` merges for the words counted so far; returns how many there are. The pair with the highest count
// is next, among equals the one with the lowest left id, then the lowest right id. A pair that occurs once is not merged.
static int find_merges(Trainer *tr, uint16_t (*merges)[2], int count) {
    tr->ids = allocate(tr->arena_size, sizeof *tr->ids);
    for (size_t i = 0; i < tr->arena_size; i++) tr->ids[i] = byte_id[(unsigned char)tr->arena[i]];
    for (uint32_t w = 0; w < tr->word_count; w++) {
        const uint16_t *ids = tr->ids + tr->words[w].start;
        for (uint32_t i = 0; i + 1 < tr->words[w].size; i++) add_pair(tr, ids[i], ids[i + 1], w);
    }
    heap_fresh(tr);
    int k = 0;
    while (k < count && tr->heap.count > 0) {
        Entry best = heap_pop(&tr->heap);
        Pair pair = *pair_slot(tr, (uint32_t)best.item); // a copy: the table may move
        if (pair.count < 2) continue;
        if (pair.count != UINT64_MAX - best.order) {
            heap_push(&tr->heap, UINT64_MAX - pair.count, pair.pair);
            continue;
        }
        merges[k][0] = (uint16_t)(pair.pair >> 16);
        merges[k][1] = (uint16_t)pair.pair;
        for (size_t i = 0; i < pair.word_count; i++) merge_in_word(tr, pair.words[i], merges[k][0], merges[k][1], 256 + (uint32_t)k);
        heap_fresh(tr);
        k++;
    }
    return k;
}

// ---------------------------------------------------------------------------------------------------------------------
// The command line. A file of tokens is llm.c's: 256 int32, of which [0] = 20240520, [1] = 1, [2] = the number of tokens
// and [3], which llm.c leaves 0, tokenizer_hash(); then the ids, uint16 each.

typedef struct {
    const char *value[128]; // by the option's letter; NULL: not given
    char **files;
    int file_count;
} Options;

static const char help[] =
    "tokenizer: byte-level BPE, as GPT-2's: trains a vocabulary, turns text into tokens and back.\n"
    "\n"
    "    tokenizer train  -v SIZE [--lines] -o FOLDER FILE...\n"
    "    tokenizer encode -m FOLDER [--lines] [-o TOKENS.bin] FILE...\n"
    "    tokenizer decode -m FOLDER TOKENS.bin\n"
    "\n"
    "A FILE may be -, standard input. tokenizer COMMAND --help says more.\n";

static const char help_train[] =
    "tokenizer train -v SIZE [--lines] -o FOLDER FILE...\n"
    "\n"
    "Makes a vocabulary of the pieces that are most frequent in the text, and writes it to FOLDER/vocab.json and\n"
    "FOLDER/merges.txt. The folder is created if it is not there.\n"
    "\n"
    "    -v, --vocab SIZE     number of tokens, 257 to 65535: the 256 bytes, merges, <|endoftext|>. No default; 1024 suits\n"
    "                         a small model, 300 is the least that makes sense. It ends up smaller if the text is so\n"
    "                         small that no pair of tokens occurs twice any more.\n"
    "    -l, --lines          every line is a document, and newlines are not part of the text (default: a file is one)\n"
    "    -o, --output FOLDER  where to write. No default\n"
    "\n"
    "Among pairs that are as frequent as each other, the one of the lowest ids is merged first.\n"
    "\n"
    "    ./tokenizer train -v 1024 --lines -o model captions.txt\n";

static const char help_encode[] =
    "tokenizer encode -m FOLDER [--lines] [-o TOKENS.bin] FILE...\n"
    "\n"
    "Turns text into tokens: printed as numbers, a line for each document, or written to a file of llm.c's format.\n"
    "\n"
    "    -m, --model FOLDER   has vocab.json and merges.txt, GPT-2's or from train. No default\n"
    "    -l, --lines          every line is a document; empty lines are skipped (default: a file is one document)\n"
    "    -o, --output FILE    write 256 int32 and then 16 bits a token. Every document is closed by <|endoftext|>, which\n"
    "                         with --lines stands for the newline (default: print the ids, without <|endoftext|>)\n"
    "\n"
    "    ./tokenizer encode -m model --lines -o captions.bin captions.txt\n";

static const char help_decode[] =
    "tokenizer decode -m FOLDER TOKENS.bin...\n"
    "\n"
    "Prints the text of files of tokens. <|endoftext|> is printed as a newline: what was encoded with --lines comes back\n"
    "as it was, less its empty lines; what was encoded as a whole file comes back with one newline more at its end.\n"
    "\n"
    "    -m, --model FOLDER   the vocabulary that the tokens were made with; another is refused. No default\n"
    "\n"
    "    ./tokenizer decode -m model captions.bin\n";

// Trains a vocabulary on files and writes it to a folder.
static void command_train(const Options *options) {
    Trainer trainer = {0};
    const char *piece, *number = options->value['v'];
    char *rest;
    size_t size;
    long vocab = strtol(number, &rest, 10);
    if (*rest || vocab < TOKENS_MIN || vocab > TOKENS_MAX)
        die("--vocab %s: expected a whole number from %d to %d", number, TOKENS_MIN, TOKENS_MAX);
    characters_open();
    for (int i = 0; i < options->file_count; i++) {
        Input in = input_open(options->files[i]);
        while (input_next(&in, options->value['l'] != NULL, &piece, &size))
            for (size_t at = 0, n; at < size; at += n) {
                n = word_length(piece + at, size - at);
                count_word(&trainer, piece + at, n);
            }
    }
    int wanted = (int)vocab - TOKENS_MIN;
    uint16_t (*merges)[2] = allocate((size_t)wanted, sizeof *merges);
    int count = find_merges(&trainer, merges, wanted);
    if (count < wanted)
        fprintf(stderr, "%s: %d tokens, not %ld: no further pair occurs twice in the text\n", program, TOKENS_MIN + count, vocab);
    tokenizer_save(tokenizer_new(merges, count), options->value['o']);
}

// Writes ids as a file of tokens has them, or prints them, with spaces between; `first`: no space before the first.
static void write_ids(FILE *file, int binary, const int *ids, size_t count, int first) {
    for (size_t i = 0; i < count; i++) {
        uint16_t id = (uint16_t)ids[i];
        if (binary) fwrite(&id, sizeof id, 1, file);
        else fprintf(file, first && i == 0 ? "%d" : " %d", ids[i]);
    }
}

// Encodes files, to a file of tokens or to standard output.
static void command_encode(const Options *options) {
    Tokenizer *t = tokenizer_load(options->value['m']);
    int32_t header[TOKENS_HEADER] = {TOKENS_MAGIC, TOKENS_VERSION, 0, (int32_t)tokenizer_hash(t)};
    int binary = options->value['o'] != NULL, lines = options->value['l'] != NULL, end = t->size - 1;
    FILE *file = binary ? output_open(options->value['o']) : stdout;
    uint64_t total = 0;
    const char *piece;
    size_t size, count;
    if (binary) fwrite(header, sizeof header, 1, file); // and once more when the number of tokens is known
    for (int i = 0; i < options->file_count; i++) {
        Input in = input_open(options->files[i]);
        uint64_t before = total; // where this document starts
        for (int more = 1; more;) {
            more = input_next(&in, lines, &piece, &size);
            if (lines && (!more || size == 0)) continue;
            if (more) {
                int *ids = tokenizer_encode(t, piece, size, &count);
                write_ids(file, binary, ids, count, total == before);
                free(ids);
                total += count;
            }
            if (more && !lines) continue;
            if (binary) write_ids(file, 1, &end, 1, 0);
            else fputc('\n', file);
            before = ++total;
        }
        if (total > INT32_MAX) die("%s: the tokens are more than a file can have, %d", options->files[i], INT32_MAX);
    }
    if (binary) {
        header[2] = (int32_t)total;
        if (fseek(file, 0, SEEK_SET) == 0) fwrite(header, sizeof header, 1, file);
        output_close(file);
    }
    tokenizer_free(t);
}

// Prints the text of files of tokens. Dies, before it prints anything of it, at a file that is not whole, is no file
// of tokens or was made with another vocabulary.
static void command_decode(const Options *options) {
    Tokenizer *t = tokenizer_load(options->value['m']);
    for (int i = 0; i < options->file_count; i++) {
        const char *path = options->files[i];
        size_t size, length;
        char *file = read_file(path, &size);
        const int32_t *header = (const int32_t *)file;
        const uint16_t *ids = (const uint16_t *)(header + TOKENS_HEADER);
        if (size < sizeof *header * TOKENS_HEADER || header[0] != TOKENS_MAGIC || header[1] != TOKENS_VERSION || header[2] < 0)
            die("%s: is no file of tokens: expected one that begins with %d and %d", path, TOKENS_MAGIC, TOKENS_VERSION);
        size_t count = (size_t)header[2], there = (size - sizeof *header * TOKENS_HEADER) / sizeof *ids;
        if (count != there || size % 2) die("%s: is cut or damaged: expected %zu tokens, found %zu", path, count, there);
        if (header[3] && (uint32_t)header[3] != tokenizer_hash(t))
            die("%s: was made with another vocabulary than that of %s", path, options->value['m']);
        for (size_t k = 0; k < count; k++)
            if (ids[k] >= t->size) die("%s: token %zu is %d, but the ids of %s end at %d", path, k, ids[k], options->value['m'], t->size - 1);
        for (size_t k = 0; k < count; k++) {
            const char *bytes = tokenizer_bytes(t, ids[k], &length);
            fwrite(bytes, 1, length, stdout);
        }
        free(file);
    }
    tokenizer_free(t);
}

static const struct { char letter, has_value; const char *name; } option_table[] = {
    {'v', 1, "--vocab"}, {'l', 0, "--lines"}, {'m', 1, "--model"}, {'o', 1, "--output"},
};

static const struct { const char *name, *allowed, *needed, *help; void (*run)(const Options *); } command_table[] = {
    {"train", "vlo", "vo", help_train, command_train},
    {"encode", "lmo", "m", help_encode, command_encode},
    {"decode", "m", "m", help_decode, command_decode},
};

enum { OPTION_COUNT = sizeof option_table / sizeof *option_table, COMMAND_COUNT = sizeof command_table / sizeof *command_table };

// Returns the place of an option in option_table, by its name or its letter, or OPTION_COUNT if it is none.
static int find_option(const char *argument) {
    int i = 0;
    while (i < OPTION_COUNT && strcmp(argument, option_table[i].name)
           && (argument[0] != '-' || argument[1] != option_table[i].letter || argument[2])) i++;
    return i;
}

// Reads the command line and runs the command. Dies at anything that it does not know.
int main(int argc, char **argv) {
    Options options = {.files = argv}; // the file names move to the front of argv
    int c = 0;
    if (argc < 2) die("expected a command: train, encode or decode; --help says more");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(help, stdout);
        finish_stdout();
        return 0;
    }
    while (c < COMMAND_COUNT && strcmp(argv[1], command_table[c].name)) c++;
    if (c == COMMAND_COUNT) die("%s: no such command: train, encode or decode", argv[1]);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(command_table[c].help, stdout);
            finish_stdout();
            return 0;
        }
        if (argv[i][0] != '-' || !argv[i][1]) {
            options.files[options.file_count++] = argv[i];
            continue;
        }
        int o = find_option(argv[i]);
        if (o == OPTION_COUNT || !strchr(command_table[c].allowed, option_table[o].letter))
            die("%s: %s has no such option; %s --help says more", argv[i], command_table[c].name, command_table[c].name);
        const char **value = &options.value[(int)option_table[o].letter];
        if (*value) die("%s: given twice", argv[i]);
        if (option_table[o].has_value && (i + 1 == argc || argv[i + 1][0] == '-')) die("%s: expected a value", argv[i]);
        *value = option_table[o].has_value ? argv[++i] : "";
    }
    for (const char *letter = command_table[c].needed; *letter; letter++) {
        char name[3] = {'-', *letter, 0};
        if (!options.value[(int)*letter])
            die("%s: expected %s; %s --help says more", command_table[c].name, option_table[find_option(name)].name, command_table[c].name);
    }
    if (options.file_count == 0) die("%s: expected a FILE; - is standard input", command_table[c].name);
    command_table[c].run(&options);
    finish_stdout();
    return 0;
}
#endif
