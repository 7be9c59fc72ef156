// tokenizer.c: text and files. What nr reads and writes, and a byte-level BPE tokenizer, exact
// against GPT-2's.
//
// A text becomes tokens in two steps. First it is cut into words, by a fixed pattern of letters,
// numbers, spaces and the rest; a space belongs to the word behind it, so "a cat's 9 lives" is "a",
// " cat", "'s", " 9", " lives". Then each word starts as its bytes, and neighbours are merged, pair
// after pair, in the order in which training found the pairs. Any bytes at all can be encoded, and
// decoding gives them back: the 256 bytes are tokens themselves.
//
// Training counts the distinct words of a text and then, again and again, makes the most frequent
// pair of neighbouring tokens a new token. So a token's id says when it was made: the lowest id is
// the merge to do first.
//
//     ./tokenizer train -v 1024 -o FOLDER text.txt         writes vocab.json and merges.txt there
//     ./tokenizer encode -m FOLDER -o tokens.bin text.txt
//     ./tokenizer decode -m FOLDER tokens.bin
//
// It is a program, and it is the part of nr that nr.c includes: with TOKENIZER_LIBRARY defined,
// training and main() are left out, and multiple-choice items and safetensors come in. The rooms,
// in order: utilities (errors, memory, files), settings, the map, characters, JSON, words, the
// vocabulary, encoding, the vocabulary's files, files of tokens, items, safetensors; and for the
// program alone training, the command line.

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian, and so must the machine be"
#endif

// -------------------------------------------------------------------------------------------------
// Utilities: errors, memory, files. There is one way to fail: one line on stderr, no half-written
// file, exit 1.

const char *program = "tokenizer";    // the name in front of messages
char *output_path, *output_temporary; // the file being written, its name until it is whole

// Says what is wrong, in one line on stderr, removes the unfinished output, and exits with 1.
_Noreturn __attribute__((format(printf, 1, 2))) void die(const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *c = message; *c; c++) // names of files and tokens can hold anything
        if (iscntrl((unsigned char)*c)) *c = '?';
    fprintf(stderr, "%s: %s\n", program, message);
    if (output_temporary) unlink(output_temporary);
    exit(1);
}

// Returns zeroed memory for `count` items of `size` bytes. It starts at a cache line: a vector that
// lies across two costs two loads. Never NULL: dies when there is not enough.
void *allocate(size_t count, size_t size) {
    if (size && count > (SIZE_MAX - 64) / size)
        die("out of memory: %zu items of %zu bytes", count, size);
    size_t bytes = count * size / 64 * 64 + 64; // of no bytes, still a pointer
    void *memory = aligned_alloc(64, bytes);
    if (!memory) die("out of memory: %zu bytes", bytes);
    return memset(memory, 0, bytes);
}

// Makes room for `needed` items of `size` bytes in a list that has room for *capacity. It at least
// doubles, so that n appends cost n, not n squared. Returns the list, which may have moved; dies
// when memory runs out.
void *grow(void *list, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) return list;
    size_t room = *capacity < 8 ? 8 : *capacity;
    while (room < needed && room <= SIZE_MAX / 2) room *= 2;
    if (room < needed || room > SIZE_MAX / size)
        die("out of memory: %zu items of %zu bytes", needed, size);
    list = realloc(list, room * size);
    if (!list) die("out of memory: %zu bytes", room * size);
    *capacity = room;
    return list;
}

// Returns two strings and what is to stand between them as one, to be freed.
char *join(const char *first, const char *between, const char *second) {
    size_t size = strlen(first) + strlen(between) + strlen(second) + 1;
    char *string = allocate(size, 1);
    snprintf(string, size, "%s%s%s", first, between, second);
    return string;
}

// Returns the folder that a path is in, to be freed.
char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = join(slash ? path : ".", "", "");
    if (slash) folder[slash == path ? 1 : slash - path] = 0;
    return folder;
}

// Returns where a path leads through symbolic links, be it to nothing, to be freed. Dies when they
// lead round in a circle.
char *follow_links(const char *path) {
    char *place = join(path, "", ""), link[4096];
    ssize_t length;
    for (int links = 0; (length = readlink(place, link, sizeof link - 1)) >= 0; links++) {
        if (links == 40) die("%s: %s", path, strerror(ELOOP));
        char *folder = folder_of(place);
        link[length] = 0;
        free(place);
        place = *link == '/' ? join(link, "", "") : join(folder, "/", link);
        free(folder);
    }
    return place;
}

// The plain files that were read, and the folders they are in: nothing is written over them.
struct { struct stat file, folder; } *inputs;
size_t input_count, input_capacity; // one less: the last may be written after all

// Is it the same file, by whatever names?
bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

// Dies if a path is that of a file that was read or, for the outputs that are folders, of a folder
// that files were read from.
void input_refuse(const char *path) {
    struct stat status;
    if (stat(path, &status)) return;
    for (size_t i = 0; i < input_count; i++)
        if (same_file(&status, &inputs[i].file) || same_file(&status, &inputs[i].folder))
            die("%s: is also an input of this command", path);
}

// Creates a folder, unless it is there already; dies when that cannot be.
void make_folder(const char *path) {
    struct stat status;
    if (!mkdir(path, 0777)) return;
    if (errno != EEXIST) die("%s: cannot be created: %s", path, strerror(errno));
    if (!stat(path, &status) && !S_ISDIR(status.st_mode))
        die("%s: is a file, not a folder", path);
}

// Makes the folders on the way to a file or, if `whole`, to a folder, and that too. Dies before the
// work, not after it, if one cannot be made, if the last cannot be written to, if a file's name is
// taken by a folder, or if the output is also an input. A folder is locked while the process lives:
// two that wrote its files in turn would leave some of each.
void make_folders(const char *path, int whole) {
    struct stat status;
    if (!whole && !stat(path, &status) && !S_ISREG(status.st_mode)) {
        if (S_ISDIR(status.st_mode)) die("%s: is a folder, not a file", path);
        return; // a pipe, a terminal
    }
    input_refuse(path);
    char *target = whole ? join(path, "/", "") : follow_links(path), *folder = folder_of(target);
    for (char *c = target + 1; *c; c++)
        if (*c == '/') *c = 0, make_folder(target), *c = '/';
    if (access(folder, W_OK)) die("%s: cannot be written: %s", folder, strerror(errno));
    if (whole && flock(open(folder, O_RDONLY), LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        die("%s: another process is writing there: wait, or choose another", folder);
    free(target), free(folder);
}

// Returns how many names a list has that are separated by commas.
int list_length(const char *list) {
    int count = 1;
    for (; *list; list++) count += *list == ',';
    return count;
}

// Opens a file to read; "-" is standard input. Dies when it is not there, or is a folder. It is
// remembered as an input.
FILE *open_file(const char *path) {
    struct stat status;
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!file || fstat(fileno(file), &status)) die("%s: %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode)) die("%s: is a folder, not a file", path);
    if (!S_ISREG(status.st_mode)) return file;
    char *folder = folder_of(path);
    inputs = grow(inputs, &input_capacity, input_count + 1, sizeof *inputs);
    inputs[input_count].file = status;
    if (stat(folder, &inputs[input_count++].folder)) die("%s: %s", folder, strerror(errno));
    free(folder);
    return file;
}

// Reads a whole file. Returns its bytes with a NUL behind them, to be freed, and how many there
// are; dies on any error.
char *read_file(const char *path, size_t *size) {
    FILE *file = open_file(path);
    char *bytes = NULL;
    size_t capacity = 0, length = 0, got;
    do {
        bytes = grow(bytes, &capacity, length + 65536, 1);
        got = fread(bytes + length, 1, capacity - length - 1, file);
        length += got;
    } while (got > 0);
    if (ferror(file)) die("%s: %s", path, strerror(errno));
    if (file != stdin) fclose(file);
    bytes[length] = 0;
    *size = length;
    return bytes;
}

// Opens a file to write, one at a time. It appears whole or not at all: until output_close it is
// PATH.PROCESS.tmp, and an older file keeps its place; a symbolic link stays, and what it leads to
// is replaced. What is no plain file, as a pipe or a terminal, is written directly, and so is
// standard output, "-" or by another name. Dies when it cannot be opened, or is also an input.
FILE *output_open(const char *path) {
    struct stat status, out;
    bool there = !stat(path, &status), standard = !strcmp(path, "-");
    FILE *file = stdout;
    input_refuse(path);
    if (there && !fstat(STDOUT_FILENO, &out) && same_file(&status, &out)) standard = true;
    if (standard || (there && !S_ISREG(status.st_mode))) {
        output_path = join(path, "", "");
        if (!standard) file = fopen(path, "wb");
    } else {
        char ending[32];
        snprintf(ending, sizeof ending, ".%ld.tmp", (long)getpid());
        output_path = follow_links(path);
        output_temporary = join(output_path, ending, "");
        unlink(output_temporary); // of a process that was killed
        file = fopen(output_temporary, "wbx");
    }
    if (!file) die("%s: cannot be written: %s", path, strerror(errno));
    return file;
}

// Puts the file from output_open in its place, all of it on disk; dies, naming it and the reason,
// if any write failed.
void output_close(FILE *file) {
    input_refuse(output_path); // read since it was opened
    errno = EIO;               // for a write that failed long ago
    if (fflush(file) || ferror(file) || (output_temporary && fsync(fileno(file)))
        || (file != stdout && fclose(file))
        || (output_temporary && rename(output_temporary, output_path)))
        die("%s: not written: %s", output_path, strerror(errno));
    free(output_temporary);
    free(output_path);
    output_temporary = output_path = NULL;
}

// Returns seconds on a clock that never goes back.
double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Does a descriptor lead to a terminal that wants colours and other escape codes?
bool use_colour(int descriptor) {
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(descriptor) && !(none && *none) && term && strcmp(term, "dumb");
}

// Prints a line of progress on stderr, after two seconds, no longer than a terminal is wide: over
// the last one on a terminal, elsewhere at every tenth of the way. start: when it began, by now();
// each step handles so many tokens.
void progress(const char *label, long step, long steps, const char *text, double start,
              double tokens) {
    static double last;
    bool redraws = use_colour(STDERR_FILENO), final = step == steps;
    if (redraws ? !final && now() - last < 0.1 : step * 10 / steps == (step - 1) * 10 / steps)
        return;
    last = now();
    double seconds = last - start, a_step = seconds / step;
    if (seconds < 2) return;
    long left = a_step * (steps - step);
    char line[512];
    struct winsize window = {0}; // unknown: a file has no width
    ioctl(STDERR_FILENO, TIOCGWINSZ, &window);
    snprintf(line, sizeof line, "%-9s %5ld/%ld  %s  %.0f tokens/s  %ld:%02ld left", label, step,
             steps, text, tokens / a_step, left / 60, left % 60);
    fprintf(stderr, "%s%.*s%s", redraws ? "\r\033[K" : "", window.ws_col - 1, line, // -1: all of it
            redraws && !final ? "" : "\n");
}

// To be called last: dies if something printed did not arrive, as when standard output is closed or
// the disk is full.
void finish_stdout(void) {
    errno = EIO;
    if (fflush(stdout) || ferror(stdout)) die("standard output: %s", strerror(errno));
}

// -------------------------------------------------------------------------------------------------
// Settings: a table says what a person can set, and where it is kept. It parses and checks values
// from a command line or a file, and writes them.

// WHOLE: a long. FRACTION: a double. CHOICE: a long, its place among `choices`, "a|b". TEXT: a
// string; TEXTS: a list of at most `most`. FLAG: a long that becomes 1, without a value.
typedef enum { WHOLE, FRACTION, CHOICE, FLAG, TEXT, TEXTS } Kind;

typedef struct {
    const char *name;    // --name
    char letter;         // -l, or 0
    Kind kind;
    size_t at;           // where in the struct of settings it is
    double least, most;  // of numbers
    const char *choices;
    int commands;        // that take it, a bit each; the bits above 255 are the program's
    const char *help;
} Setting;

// Returns the place of `text` among choices, which are separated by `between`, -1 if it is none of
// them.
int choice_index(const char *choices, char between, const char *text) {
    const char stop[2] = {between, 0};
    for (int i = 0; *choices; i++) {
        size_t length = strcspn(choices, stop);
        if (length == strlen(text) && !memcmp(choices, text, length)) return i;
        choices += length + (choices[length] == between);
    }
    return -1;
}

// Returns the name of a setting as it is written, with - for _, until the next call.
const char *setting_name(const Setting *o) {
    static char name[32];
    snprintf(name, sizeof name, "%s", o->name);
    for (char *c = name; *c; c++) *c = *c == '_' ? '-' : *c;
    return name;
}

// Checks a value and stores it in *base. `source` is what a message says in front of the setting's
// name.
void setting_set(void *base, const Setting *o, const char *source, const char *value) {
    char *end = NULL, *field = (char *)base + o->at;
    if (o->kind >= TEXT) {
        const char **texts = (const char **)field;
        const char **last = texts + (o->kind == TEXTS ? (int)o->most : 1);
        if (!*value) die("%s%s: its value is empty", source, setting_name(o));
        while (o->kind == TEXTS && texts < last && *texts) texts++;
        if (texts == last) die("%s%s: given more than %g times", source, setting_name(o), o->most);
        *texts = value;
        return;
    }
    double x = o->kind == FLAG ? 1
             : o->choices ? choice_index(o->choices, '|', value) : strtod(value, &end);
    if (o->choices && x < 0)
        die("%s%s %s: not known, expected %s", source, setting_name(o), value, o->choices);
    if (end && (!*value || *end || !(x >= o->least && x <= o->most)
                || (o->kind == WHOLE && x != (long)x)))
        die("%s%s %s: expected a %s from %.15g to %.15g", source, setting_name(o), value,
            o->kind == WHOLE ? "whole number" : "number", o->least, o->most);
    if (o->kind == FRACTION) memcpy(field, &x, sizeof x);
    else memcpy(field, &(long){x}, sizeof(long));
}

// Writes a setting's value as text, "" if it has none, and returns the text.
const char *setting_text(const void *base, const Setting *o, char text[64]) {
    const void *field = (const char *)base + o->at;
    const char *choice = o->choices;
    *text = 0;
    if (o->kind == FRACTION) snprintf(text, 64, "%.15g", *(const double *)field);
    else if (o->kind == TEXT && *(char *const *)field)
        snprintf(text, 64, "%s", *(char *const *)field);
    else if (o->kind == WHOLE) snprintf(text, 64, "%ld", *(const long *)field);
    if (o->kind != CHOICE) return text;
    for (long i = *(const long *)field; i > 0; i--) choice = strchr(choice, '|') + 1;
    snprintf(text, 64, "%.*s", (int)strcspn(choice, "|"), choice);
    return text;
}

// Prints the settings that a command takes, a line each, with their values.
void settings_print(const void *base, const Setting *table, int count, int command) {
    for (const Setting *o = table; o < table + count; o++) {
        char name[64], value[64];
        if (!(o->commands & command)) continue;
        snprintf(name, sizeof name, "--%s%s%.1s", setting_name(o), o->letter ? ", -" : "",
                 &o->letter);
        printf("  %-18s %s", name, o->help);
        if (o->choices) printf(": %s", o->choices);
        if (strspn(setting_text(base, o, value), "0") < strlen(value)) printf(" [%s]", value);
        printf("\n");
    }
}

// Writes the settings that lie in the first `size` bytes of *base as metadata. Returns the length.
int settings_write(char *text, const void *base, size_t size, const Setting *table, int count) {
    char value[64];
    int length = 0;
    for (const Setting *o = table; o < table + count; o++)
        if (o->at < size)
            length += sprintf(text + length, ",\"%s\":\"%.20s\"", o->name,
                              setting_text(base, o, value));
    return length;
}

// Sets the settings of a text such as "lr=0.005 gate=relu", in *base, which has those that lie in
// its first `size` bytes.
void settings_apply(void *base, size_t size, const Setting *table, const char *text) {
    char words[256];
    snprintf(words, sizeof words, "%s", text);
    for (char *name = strtok(words, "="); name; name = strtok(NULL, "=")) {
        const Setting *o = table;
        while (strcmp(o->name, name) || o->at >= size) o++;
        setting_set(base, o, "", strtok(NULL, " "));
    }
}

// Reads the words of a command line into *base: -l VALUE, --name VALUE or --name=VALUE of the
// settings that the command, called `name`, takes. given gets a bit for each setting that is there.
// Words that are no option move to the front of argv. Returns how many there are, or -1 if one asks
// for help or, of the whole program, its version; dies at anything else.
int settings_read(void *base, const Setting *table, int count, uint64_t *given, int command,
                  const char *name, int argc, char **argv) {
    int words = 0;
    for (int i = 0; i < argc; i++) {
        char *word = argv[i], *value = strchr(word, '=');
        int o = 0;
        if (choice_index("-h|--help|--version", '|', word) >= 0) return -1;
        if (*word != '-' || !word[1]) { argv[words++] = word; continue; }
        if (value) *value++ = 0;
        for (char *c = word + 1; *c && *++c;) *c = *c == '-' ? '_' : *c;
        for (; o < count; o++) {
            bool named = !strncmp(word, "--", 2) ? !strcmp(word + 2, table[o].name)
                                                 : word[1] == table[o].letter && !word[2];
            if (table[o].commands & command && named) break;
        }
        if (o == count)
            die("%s: not an option of %s (%s %s --help lists them)", word, name, program, name);
        if (table[o].kind == FLAG && value) die("%s: takes no value", word);
        if (table[o].kind == FLAG) value = "";
        else if (!value && ++i < argc) value = argv[i];
        if (!value) die("%s: a value is missing", word);
        if (*given >> o & 1 && table[o].kind != TEXTS) die("%s: given twice", word);
        *given |= 1ull << o;
        setting_set(base, &table[o], "--", value);
    }
    return words;
}

// -------------------------------------------------------------------------------------------------
// The map gives byte strings numbers: 0, 1, 2, in the order in which they first come. Tokens,
// merges, the words of a text and the pairs in them are all kept in maps.

typedef struct {
    int count;           // number of keys
    char *bytes;         // all keys, one behind the other
    size_t *start;       // (count + 1) key k is bytes[start[k]] up to bytes[start[k + 1]]
    int *slots;          // an open hash table, at most half full: a key's number + 1; 0: none
    size_t slot_count, bytes_capacity, start_capacity;
} Map;

const uint32_t FNV_START = 0x811c9dc5;

// Returns the 32-bit FNV-1a hash of some bytes, continued from `hash`, which starts as FNV_START.
uint32_t fnv1a(uint32_t hash, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 16777619u;
    return hash;
}

// Returns the key with a number, no NUL behind it, and its size.
const void *map_key(const Map *map, int number, size_t *size) {
    *size = map->start[number + 1] - map->start[number];
    return map->bytes + map->start[number];
}

// Returns the slot of a key, or the empty one where it would be. The map must have slots.
int *map_slot(const Map *map, const void *key, size_t size) {
    uint32_t hash = fnv1a(FNV_START, key, size);
    size_t mask = map->slot_count - 1, other_size;
    size_t i = hash ^ hash >> 15; // its low bits alone are poor
    for (;; i++) {
        int *slot = map->slots + (i & mask);
        const char *other = *slot ? map_key(map, *slot - 1, &other_size) : NULL;
        if (!other || (other_size == size && !memcmp(other, key, size))) return slot;
    }
}

// Returns the number of a key, -1 if it is not in the map.
int map_find(const Map *map, const void *key, size_t size) {
    return map->slots ? *map_slot(map, key, size) - 1 : -1;
}

// Returns the number of a key, which is added if it is not in the map; dies when memory runs out.
int map_add(Map *map, const void *key, size_t size) {
    size_t count = map->count;
    if (2 * (count + 1) > map->slot_count) {
        free(map->slots);
        map->slot_count = map->slot_count ? 2 * map->slot_count : 1024;
        map->slots = allocate(map->slot_count, sizeof *map->slots);
        for (int k = 0; k < map->count; k++) {
            size_t old_size;
            const char *old = map_key(map, k, &old_size);
            *map_slot(map, old, old_size) = k + 1;
        }
    }
    int *slot = map_slot(map, key, size);
    if (*slot) return *slot - 1;
    if (map->count == INT_MAX) die("out of memory: more than %d keys in a map", INT_MAX);
    map->start = grow(map->start, &map->start_capacity, count + 2, sizeof *map->start);
    if (count == 0) map->start[0] = 0;
    map->start[count + 1] = map->start[count] + size;
    map->bytes = grow(map->bytes, &map->bytes_capacity, map->start[count + 1] + 1, 1);
    memcpy(map->bytes + map->start[count], key, size);
    return (*slot = ++map->count) - 1;
}

// Frees what a map holds.
void map_free(Map *map) {
    free(map->bytes);
    free(map->start);
    free(map->slots);
}

// -------------------------------------------------------------------------------------------------
// Characters: UTF-8, and which code points are letters, numbers and spaces.

// Reads one character of UTF-8 from the n bytes at s. Returns its length in bytes, or 0 if no valid
// one starts there.
int utf8_decode(const char *s, size_t n, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000}; // a longer form is not valid
    uint32_t c = n ? (unsigned char)s[0] : 0x80;
    int length = 0;
    while (c << length & 0x80) length++;
    if (length == 1 || length > 4 || (size_t)length > n) return 0;
    c &= 0xff >> length;
    for (int i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < smallest[length] || c > 0x10ffff || c >> 11 == 0xd800 >> 11) return 0;
    *code = c;
    return length ? length : 1;
}

// Writes one character as UTF-8 to s, which has room for 4 bytes. Returns how many it takes.
int utf8_encode(uint32_t code, char *s) {
    int length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, code >>= 6) s[i] = 0x80 | (code & 0x3f);
    s[0] = length == 1 ? code : (0xf00 >> length & 0xff) | code;
    return length;
}

// Prints bytes as text on one line: what is no character that can be printed becomes a dot.
void print_visible(const char *bytes, size_t size) {
    for (size_t i = 0, length; i < size; i += length) {
        uint32_t code = 0;
        length = utf8_decode(bytes + i, size - i, &code);
        if (code < 32 || code == 127) putchar('.'), length = 1;
        else fwrite(bytes + i, 1, length, stdout);
    }
}

// Letters (\p{L}), numbers (\p{N}) and spaces (\s, White_Space) of Unicode 16.0, as dev/unicode.py
// prints them. A pair is: code points skipped since the last range, code points in this one.
enum { UNICODE_END = 0x323b0 };
const char unicode_letters[] =
    "65,26 6,26 47,1 10,1 4,1 5,23 1,31 1,458 4,12 14,5 7,1 1,1 129,5 1,2 2,4 1,1 6,1 1,3 1,1 "
    "1,20 1,83 1,139 8,166 1,38 2,1 6,41 71,27 4,4 45,43 35,2 1,99 1,1 15,2 7,2 10,3 2,1 16,1 "
    "1,30 29,89 11,1 24,33 9,2 4,1 5,22 4,1 9,1 3,1 23,25 7,11 5,24 1,6 17,42 58,54 3,1 18,1 "
    "7,10 15,16 4,8 2,2 2,22 1,7 1,1 3,4 3,1 16,1 13,2 1,3 14,2 10,1 8,6 4,2 2,22 1,7 1,2 1,2 "
    "1,2 31,4 1,1 19,3 16,9 1,3 1,22 1,7 1,2 1,5 3,1 18,1 15,2 23,1 11,8 2,2 2,22 1,7 1,2 1,5 "
    "3,1 30,2 1,3 15,1 17,1 1,6 3,3 1,4 3,2 1,1 1,2 3,2 3,3 3,12 22,1 52,8 1,3 1,23 1,16 3,1 "
    "26,3 2,1 2,2 30,1 4,8 1,3 1,23 1,10 1,5 3,1 31,2 1,2 15,2 17,9 1,3 1,41 2,1 16,1 5,3 8,3 "
    "24,6 5,18 3,24 1,9 1,1 2,7 58,48 1,2 12,7 58,2 1,1 1,5 1,24 1,1 1,10 1,2 9,1 2,5 1,1 21,4 "
    "32,1 63,8 1,36 27,5 115,43 20,1 16,6 4,4 3,1 3,2 7,3 4,13 12,1 17,38 1,1 5,1 2,43 1,333 1,4 "
    "2,7 1,1 1,4 2,41 1,4 2,33 1,4 2,7 1,1 1,4 2,15 1,57 1,4 2,67 37,16 16,86 2,6 3,620 2,17 "
    "1,26 5,75 6,8 7,18 13,19 14,18 14,13 1,3 15,52 35,1 4,1 67,89 7,5 2,34 1,1 5,70 10,31 49,30 "
    "2,5 11,44 4,26 54,23 9,53 82,1 93,47 17,8 54,30 13,2 10,44 26,36 41,3 10,36 2,11 5,43 2,3 "
    "41,4 1,6 1,2 3,1 5,192 64,278 2,6 2,38 2,6 2,8 1,1 1,1 1,1 1,31 2,53 1,7 1,1 3,3 1,7 3,4 "
    "2,6 4,13 5,3 1,7 116,1 13,1 16,13 101,1 4,1 2,10 1,1 3,5 6,1 1,1 1,1 1,4 1,11 2,4 5,5 4,1 "
    "52,2 2683,229 6,4 3,2 12,38 1,1 5,1 2,56 7,1 16,23 9,7 1,7 1,7 1,7 1,7 1,7 1,7 1,7 80,1 "
    "469,2 42,5 5,2 4,86 6,3 1,90 1,4 5,43 1,94 17,32 48,16 512,6592 64,22157 67,46 2,269 3,16 "
    "10,2 20,47 16,31 2,70 49,9 2,103 2,67 2,2 1,1 1,8 21,16 1,3 1,4 1,23 29,52 14,50 62,6 3,1 "
    "1,2 11,28 10,23 25,29 7,47 28,1 16,5 1,10 10,5 1,41 23,3 1,8 20,23 3,1 3,50 1,1 3,2 2,5 2,1 "
    "1,1 24,3 2,11 7,3 12,6 2,6 2,6 9,7 1,7 1,43 1,14 6,115 29,11172 12,23 4,49 8452,366 2,106 "
    "38,7 12,5 5,1 1,10 1,13 1,5 1,1 1,2 1,2 1,108 33,363 18,64 2,54 40,12 116,5 1,135 36,26 "
    "6,26 11,89 3,6 2,6 2,6 2,3 35,12 1,26 1,19 1,2 1,15 2,14 34,123 389,29 3,49 47,32 13,20 1,8 "
    "6,38 10,30 2,36 4,8 48,158 18,36 4,36 4,40 8,52 12,11 1,15 1,7 1,2 1,11 1,15 1,7 1,2 3,52 "
    "12,311 9,22 10,8 24,6 1,42 1,9 69,6 2,1 1,44 1,2 3,1 2,23 10,23 9,31 65,19 1,2 10,22 10,26 "
    "70,56 6,2 64,1 15,4 1,3 1,29 42,29 3,29 35,8 1,28 27,54 10,22 10,19 13,18 110,73 55,51 "
    "13,51 13,36 38,28 9,23 250,42 6,2 16,3 59,29 10,1 8,22 42,18 46,21 27,23 12,53 57,2 2,1 "
    "13,45 32,25 26,36 29,1 2,1 8,35 3,1 12,48 14,4 21,1 1,1 35,18 1,25 19,2 63,7 1,1 1,4 1,15 "
    "1,10 7,47 38,8 2,2 2,22 1,7 1,2 1,5 3,1 18,1 12,5 30,10 1,1 2,1 1,38 1,1 25,1 1,1 44,53 "
    "18,4 20,3 30,48 20,2 1,1 184,47 41,4 36,48 20,1 59,43 13,1 71,27 37,7 185,44 116,64 31,8 "
    "2,1 2,8 1,2 1,24 15,1 1,1 94,8 2,39 16,1 1,1 28,1 10,40 7,1 21,1 11,46 19,1 18,73 199,33 "
    "31,9 1,37 17,1 49,30 112,7 1,2 1,38 21,1 25,6 1,2 1,32 14,1 327,19 15,1 1,13 1,34 124,1 "
    "79,922 230,196 2636,97 15,1072 17,6 25,3995 5,583 6841,30 1762,569 7,31 17,79 17,30 18,48 "
    "16,4 31,21 5,19 432,45 211,64 128,75 5,1 66,13 64,2 1,1 28,6136 8,1238 41,10 8935,4 1,7 1,2 "
    "1,291 15,1 29,3 2,1 14,4 8,396 2308,107 5,13 3,9 7,10 5990,85 1,71 1,2 2,1 2,2 2,4 1,12 1,1 "
    "1,7 1,65 1,4 2,8 1,7 1,28 1,4 1,5 1,1 3,7 1,340 2,25 1,25 1,31 1,25 1,31 1,25 1,31 1,25 "
    "1,31 1,25 1,8 1844,31 6,6 261,62 146,45 10,7 16,1 321,30 18,44 484,28 228,30 2,1 495,7 1,4 "
    "1,2 1,15 1,197 59,68 7,1 1204,4 1,27 1,2 1,1 2,1 1,10 1,4 1,1 1,1 6,1 4,1 1,1 1,1 1,3 1,2 "
    "1,1 2,1 1,1 1,1 1,1 1,1 1,2 1,1 2,4 1,7 1,4 1,4 1,1 1,10 1,17 5,3 1,5 1,17 4420,42720 "
    "32,4154 6,222 2,5762 14,7473 15,622 2466,542 1506,4939 5,4192 ";
const char unicode_numbers[] =
    "48,10 120,2 5,1 2,3 1441,10 134,10 198,10 412,10 118,10 4,6 108,10 118,10 118,10 2,6 110,13 "
    "115,10 8,7 103,10 104,7 7,19 109,10 96,10 118,10 70,20 268,10 70,10 719,20 881,3 239,10 "
    "6,10 22,10 300,10 128,11 165,10 6,10 182,10 86,10 134,10 6,10 1046,1 3,6 6,10 198,51 2,5 "
    "726,60 78,22 630,30 1385,1 777,1 25,9 14,3 343,4 138,10 30,8 1,15 32,10 39,15 29536,10 "
    "188,10 320,6 154,10 38,10 198,10 22,10 86,10 406,10 21270,10 493,45 12,57 17,2 341,27 36,4 "
    "29,1 8,1 134,5 202,10 942,8 25,7 39,9 75,5 22,6 160,2 2,16 2,46 64,9 52,2 30,3 75,5 104,8 "
    "24,8 41,7 330,6 48,10 6,10 278,31 158,10 42,4 112,7 134,30 128,10 60,10 144,10 7,20 251,10 "
    "342,10 118,10 374,10 102,10 6,20 76,12 420,19 93,10 662,10 86,29 227,10 70,10 422,10 102,21 "
    "1067,111 15553,10 2342,10 86,10 134,10 1,7 526,10 262,23 24153,10 1478,20 12,20 108,25 "
    "1109,50 2368,10 422,10 502,10 247,10 716,9 128,10 791,59 1,3 1,4 76,45 1,15 962,13 2787,10 ";
const char unicode_spaces[] =
    "9,5 18,1 100,1 26,1 5599,1 2431,11 29,2 5,1 47,1 4000,1 ";

enum { OTHER, LETTER, NUMBER, SPACE };
unsigned char unicode_class[UNICODE_END]; // the tables, opened; above it all are OTHER

// Opens one table into unicode_class.
void unicode_open(const char *table, int class) {
    size_t code = 0;
    for (char *at = (char *)table; *at; at++) { // a space is behind each pair
        code += strtoul(at, &at, 10);
        size_t count = strtoul(at + 1, &at, 10);
        memset(unicode_class + code, class, count);
        code += count;
    }
}

// Returns the class and the length of the character at s, of n > 0 bytes. A byte that is not valid
// UTF-8 is one OTHER.
static inline int character(const char *s, size_t n, size_t *length) {
    uint32_t code;
    *length = 1;
    if ((unsigned char)*s < 0x80) return unicode_class[(unsigned char)*s];
    int bytes = utf8_decode(s, n, &code);
    if (bytes == 0) return OTHER;
    *length = bytes;
    return code < UNICODE_END ? unicode_class[code] : OTHER;
}

// GPT-2 writes the bytes of a token as characters that can be seen: byte b is the character
// byte_code[b]. 188 bytes stand for themselves; the others, the space among them, are moved to 256
// and up. The ids 0 to 255 are in that order.
uint16_t byte_code[256];
unsigned char id_byte[256], byte_id[256];

// Fills the tables of this room. It has to come before everything that cuts words or looks at
// tokens.
void characters_open(void) {
    int id = 0, moved = 256;
    unicode_open(unicode_letters, LETTER);
    unicode_open(unicode_numbers, NUMBER);
    unicode_open(unicode_spaces, SPACE);
    for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < 256; b++) {
            int seen = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
            if (seen != (pass == 0)) continue;
            byte_code[b] = seen ? b : moved++;
            byte_id[b] = id;
            id_byte[id++] = b;
        }
}

// -------------------------------------------------------------------------------------------------
// JSON: one small reader, for vocabularies, configurations and the headers of safetensors. A text
// becomes a tree.

typedef struct Json {
    char type;                 // '{' object, '[' list, '"' string, '0' number, 't', 'f', 'n'
    char *key;                 // its name, if it is a member of an object
    char *string;              // of a string; of 't', 'f', 'n' "true", "false", "null"
    double number;             // of a number
    struct Json *child, *next; // the first thing in an object or a list; the thing after this
} Json;

typedef struct { const char *name, *text; size_t size, at; } JsonReader;

enum { JSON_DEPTH = 64 };

// Returns the next byte without taking it; 0, which is valid nowhere in JSON, at the end.
int json_peek(const JsonReader *r) {
    return r->at < r->size ? (unsigned char)r->text[r->at] : 0;
}

// Dies, saying where the text is wrong, what had to be there and what is.
_Noreturn void json_fail(const JsonReader *r, const char *expected) {
    char found[24] = "the end";
    int c = json_peek(r);
    if (r->at < r->size) snprintf(found, sizeof found, isgraph(c) ? "'%c'" : "byte 0x%02x", c);
    die("%s: JSON: expected %s at byte %zu, found %s", r->name, expected, r->at, found);
}

// The same, behind any white space.
int json_skip(JsonReader *r) {
    while (json_peek(r) && strchr(" \t\n\r", json_peek(r))) r->at++;
    return json_peek(r);
}

// Takes the four hexadecimal digits of a \u escape.
uint32_t json_hex(JsonReader *r) {
    char digits[5] = "";
    for (int i = 0; i < 4; i++, r->at++) {
        if (!isxdigit(json_peek(r))) json_fail(r, "a hexadecimal digit");
        digits[i] = json_peek(r);
    }
    return strtoul(digits, NULL, 16);
}

// Takes what is behind a backslash, and returns the character it stands for.
uint32_t json_escape(JsonReader *r) {
    static const char escapes[] = "\"\\/bfnrt", escaped[] = "\"\\/\b\f\n\r\t";
    const char *escape = json_peek(r) ? strchr(escapes, json_peek(r)) : NULL;
    if (!escape && json_peek(r) != 'u') json_fail(r, "an escape");
    r->at++;
    if (escape) return escaped[escape - escapes];
    uint32_t code = json_hex(r), low = 0;
    if (code >> 10 == 0xd800 >> 10 && r->size - r->at >= 6 && !memcmp(r->text + r->at, "\\u", 2)) {
        r->at += 2;
        low = json_hex(r);
        if (low >> 10 == 0xdc00 >> 10) code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
    }
    if (code >> 11 == 0xd800 >> 11) json_fail(r, "the other half of a surrogate pair");
    if (code == 0) json_fail(r, "no NUL before");
    return code;
}

// Takes a string and returns it, to be freed.
char *json_string(JsonReader *r) {
    char *string = NULL;
    size_t capacity = 0, n = 0;
    if (json_skip(r) != '"') json_fail(r, "'\"'");
    for (r->at++; json_peek(r) != '"';) {
        uint32_t code;
        int bytes = utf8_decode(r->text + r->at, r->size - r->at, &code);
        if (json_peek(r) < 32) json_fail(r, "'\"'");
        if (bytes == 0) json_fail(r, "UTF-8");
        r->at += bytes;
        if (code == '\\') code = json_escape(r);
        string = grow(string, &capacity, n + 5, 1); // a character, and the NUL behind the last
        n += utf8_encode(code, string + n);
    }
    r->at++;
    string = grow(string, &capacity, n + 1, 1);
    string[n] = 0;
    return string;
}

// Takes a number and returns it.
double json_number(JsonReader *r) {
    char copy[64] = "", *end; // strtod wants a NUL, and would take more than JSON allows
    size_t n = 0;
    for (; n < sizeof copy - 1 && json_peek(r) && strchr("+-.0123456789eE", json_peek(r)); r->at++)
        copy[n++] = json_peek(r);
    double number = strtod(copy, &end);
    if (end == copy || *end || n == sizeof copy - 1) json_fail(r, "a number before");
    return number;
}

// Takes a value, at this depth of objects and lists, and returns its tree.
Json *json_value(JsonReader *r, int depth) {
    Json *value = allocate(1, sizeof *value);
    int c = json_skip(r);
    value->type = c == '-' || isdigit(c) ? '0' : c;
    if (value->type == '"') {
        value->string = json_string(r);
    } else if (value->type == '0') {
        value->number = json_number(r);
    } else if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';
        Json **last = &value->child;
        Map keys = {0};
        int count = 0;
        if (depth == JSON_DEPTH) json_fail(r, "no deeper nesting");
        r->at++;
        while (json_skip(r) != close) {
            char *key = NULL;
            if (value->child && json_peek(r) != ',')
                json_fail(r, c == '{' ? "',' or '}'" : "',' or ']'");
            if (value->child) r->at++;
            if (c == '{') {
                key = json_string(r);
                if (map_add(&keys, key, strlen(key)) != count++)
                    die("%s: JSON: the key \"%.99s\" is there twice", r->name, key);
                if (json_skip(r) != ':') json_fail(r, "':'");
                r->at++;
            }
            *last = json_value(r, depth + 1);
            (*last)->key = key;
            last = &(*last)->next;
        }
        map_free(&keys);
        r->at++;
    } else {
        const char *word = c == 't' ? "true" : c == 'f' ? "false" : "null";
        size_t length = strlen(word);
        if (r->size - r->at < length || memcmp(r->text + r->at, word, length))
            json_fail(r, "a value");
        r->at += length;
        value->string = join(word, "", "");
    }
    return value;
}

// Reads a JSON text of `size` bytes into a tree, to be freed with json_free. Dies if the text is
// not exactly one JSON value, or if an object has a key twice: no one could say which is meant.
// `name` says in the message what it is the text of.
Json *json_parse(const char *name, const char *text, size_t size) {
    JsonReader reader = {name, text, size, 0};
    Json *value = json_value(&reader, 0);
    json_skip(&reader);
    if (reader.at < size) json_fail(&reader, "the end");
    return value;
}

// Returns an object's member, NULL if it has none of this name or is no object.
Json *json_get(const Json *object, const char *key) {
    Json *member = object && object->type == '{' ? object->child : NULL;
    while (member && strcmp(member->key, key)) member = member->next;
    return member;
}

// Reads a file that holds an object; dies unless it does.
Json *json_read(const char *path) {
    size_t size;
    char *text = read_file(path, &size);
    Json *value = json_parse(path, text, size);
    if (value->type != '{') die("%s: expected a JSON object", path);
    free(text);
    return value;
}

// Is x a whole number from 0 to `most`? NULL is none.
int json_whole(const Json *x, uint64_t most) {
    return x && x->type == '0' && x->number >= 0 && x->number <= most
        && x->number == (uint64_t)x->number;
}

// Returns a member of an object that is a whole number between 1 and `most`; dies, naming `path`,
// if it is not.
size_t json_size(const char *path, const Json *object, const char *key, size_t most) {
    const Json *x = json_get(object, key);
    if (!json_whole(x, most) || x->number < 1)
        die("%s: \"%s\" is missing or not a whole number from 1 to %zu", path, key, most);
    return x->number;
}

// Dies if an object has `key` with a value that is not among `expected`, texts separated by "|".
void json_expect(const char *path, const Json *object, const char *key, const char *expected) {
    const Json *x = json_get(object, key);
    if (!x) return;
    char number[32];
    snprintf(number, sizeof number, "%g", x->number);
    const char *found = x->type == '0' ? number : x->string ? x->string : "?";
    if (choice_index(expected, '|', found) < 0)
        die("%s: \"%s\" is %.60s, but nr computes with %s only", path, key, found, expected);
}

// Frees a tree.
void json_free(Json *value) {
    while (value) {
        Json *next = value->next;
        json_free(value->child);
        free(value->key);
        free(value->string);
        free(value);
        value = next;
    }
}

// Writes a token's name as a JSON string, in ASCII, as GPT-2's vocab.json has it.
void json_write_name(FILE *file, const char *name) {
    uint32_t code;
    fputc('"', file);
    while (*name) {
        name += utf8_decode(name, strlen(name), &code);
        fprintf(file, code == '"' || code == '\\' ? "\\%c" : code < 128 ? "%c" : "\\u%04x", code);
    }
    fputc('"', file);
}

// -------------------------------------------------------------------------------------------------
// Words: how a text is cut before anything is merged. No token reaches from one word into the next.

// Returns the length of the word at s, of n > 0 bytes of text: the first match of GPT-2's pattern,
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t word_length(const char *s, size_t n) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    size_t length, last = 0, end = 0;
    for (int i = 0; *s == '\'' && i < 7; i++) {
        length = strlen(endings[i]);
        if (length <= n && !memcmp(s, endings[i], length)) return length;
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

// -------------------------------------------------------------------------------------------------
// The vocabulary: the 256 bytes, then one token for every merge, then <|endoftext|>, which closes a
// document.

enum { TOKENS_MIN = 257, TOKENS_MAX = 65535 };     // ids are 16 bits wide in files
const char end_of_text[] = "<|endoftext|>"; // a name; in a text these are 13 ordinary bytes

typedef struct Tokenizer {
    int size;   // number of tokens; the last is <|endoftext|>
    Map tokens; // (size - 1) the bytes of all others: number = id
    Map merges; // (size - 257) uint32, the ids left << 16 | right: number k makes token 256 + k
} Tokenizer;

// Returns a tokenizer without merges: the 256 bytes, and <|endoftext|>.
Tokenizer *tokenizer_new(void) {
    Tokenizer *t = allocate(1, sizeof *t);
    characters_open();
    for (int id = 0; id < 256; id++) map_add(&t->tokens, id_byte + id, 1);
    t->size = TOKENS_MIN;
    return t;
}

// Adds a merge, and the token that it makes. Returns 0 if there already is such a merge, or a token
// of these bytes.
int tokenizer_add(Tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t pair = left << 16 | right;
    size_t left_size, right_size;
    const char *left_bytes = map_key(&t->tokens, left, &left_size);
    const char *right_bytes = map_key(&t->tokens, right, &right_size);
    char *bytes = memcpy(allocate(left_size + right_size, 1), left_bytes, left_size);
    memcpy(bytes + left_size, right_bytes, right_size);
    int is_new = map_add(&t->merges, &pair, sizeof pair) == t->size - TOKENS_MIN
              && map_add(&t->tokens, bytes, left_size + right_size) == t->size - 1;
    free(bytes);
    t->size += is_new;
    return is_new;
}

// Frees a tokenizer.
void tokenizer_free(Tokenizer *t) {
    map_free(&t->tokens);
    map_free(&t->merges);
    free(t);
}

// Returns the bytes of a token, 0 <= id < size, with no NUL behind them: a text is decoded by
// putting its tokens' bytes one behind the other. Those of <|endoftext|> are a newline: it stands
// where a line, or a file, ends.
const char *tokenizer_bytes(const Tokenizer *t, int id, size_t *length) {
    *length = 1;
    return id == t->size - 1 ? "\n" : map_key(&t->tokens, id, length);
}

// Prints the bytes of a token.
void print_bytes(const Tokenizer *t, int id) {
    size_t length;
    const char *bytes = tokenizer_bytes(t, id, &length);
    fwrite(bytes, 1, length, stdout);
}

// Returns a fingerprint of the vocabulary, never 0: the FNV-1a hash, over all tokens in the order
// of their ids, of the length, as 4 bytes, and then the bytes.
uint32_t tokenizer_hash(const Tokenizer *t) {
    uint32_t hash = FNV_START;
    for (int id = 0; id < t->size; id++) {
        size_t length;
        const char *bytes = tokenizer_bytes(t, id, &length);
        uint32_t length32 = length;
        hash = fnv1a(fnv1a(hash, &length32, 4), bytes, length);
    }
    return hash ? hash : 1;
}

// -------------------------------------------------------------------------------------------------
// Encoding: text to ids.

// Returns the number of the merge of two neighbours, UINT32_MAX if there is no such merge.
uint32_t merge_number(const Tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t pair = left << 16 | right;
    return map_find(&t->merges, &pair, sizeof pair);
}

// Encodes one word of n bytes into ids, which has room for n, and returns how many there are. Of
// all pairs it takes the one that was merged first in training, merges it wherever it is, from the
// left on, and looks again, until no pair can be merged. There are as many passes as there are
// different merges in the word: a million spaces are fast; a million random letters take minutes
// with GPT-2's vocabulary.
size_t encode_word(const Tokenizer *t, const char *word, size_t n, int *ids) {
    for (size_t i = 0; i < n; i++) ids[i] = byte_id[(unsigned char)word[i]];
    for (;;) {
        uint32_t first = UINT32_MAX;
        size_t count = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t k = merge_number(t, ids[i], ids[i + 1]);
            if (k < first) first = k;
        }
        if (first == UINT32_MAX) return n;
        for (size_t i = 0; i < n; i++) {
            bool found = i + 1 < n && merge_number(t, ids[i], ids[i + 1]) == first;
            ids[count++] = found ? 256 + (int)first : ids[i];
            i += found;
        }
        n = count;
    }
}

// Encodes a text of any bytes. Returns the ids, to be freed, and how many there are. A word that is
// a token needs no merging: every token is what its bytes are merged into. "<|endoftext|>" in the
// text is text; the id of that name never comes out.
int *tokenizer_encode(const Tokenizer *t, const char *text, size_t size, size_t *count) {
    size_t capacity = 0;
    int *ids = grow(NULL, &capacity, size / 4 + 1, sizeof *ids);
    *count = 0;
    for (size_t at = 0, n; at < size; at += n) {
        n = word_length(text + at, size - at);
        ids = grow(ids, &capacity, *count + n, sizeof *ids);
        int whole = map_find(&t->tokens, text + at, n), *next = ids + *count;
        if (whole >= 0) *next = whole, ++*count;
        else *count += encode_word(t, text + at, n, next);
    }
    return ids;
}

// -------------------------------------------------------------------------------------------------
// The vocabulary's files, GPT-2's: vocab.json gives every token its id, merges.txt has a line for
// each merge, in order. transformers 5 has both in one tokenizer.json. A file of tokens is llm.c's:
// 256 int32, of which [0] is 20240520, [1] is 1, [2] the number of tokens and [3], which llm.c
// leaves 0, tokenizer_hash(); then the ids, uint16 each.

enum { TOKENS_MAGIC = 20240520, TOKENS_VERSION = 1, TOKENS_HEADER = 256 };

// Returns the name of a token in those files, its bytes as byte_code's characters, to be freed.
char *token_name(const Tokenizer *t, int id) {
    if (id == t->size - 1) return join(end_of_text, "", "");
    size_t length, n = 0;
    const char *bytes = tokenizer_bytes(t, id, &length);
    char *name = allocate(2 * length + 1, 1);
    for (size_t i = 0; i < length; i++)
        n += utf8_encode(byte_code[(unsigned char)bytes[i]], name + n);
    return name;
}

// Writes vocab.json and merges.txt into a folder, which is created if it is not there. Dies if that
// cannot be done.
void tokenizer_save(const Tokenizer *t, const char *folder) {
    char *vocab_path = join(folder, "/", "vocab.json");
    char *merges_path = join(folder, "/", "merges.txt");
    size_t size;
    make_folder(folder);
    FILE *file = output_open(vocab_path);
    for (int id = 0; id < t->size; id++) {
        char *name = token_name(t, id);
        fputs(id ? ", " : "{", file);
        json_write_name(file, name);
        fprintf(file, ": %d", id);
        free(name);
    }
    fputs("}", file);
    output_close(file);
    file = output_open(merges_path);
    fputs("#version: 0.2\n", file);
    for (int k = 0; k < t->merges.count; k++) {
        const uint32_t *pair = map_key(&t->merges, k, &size);
        char *left = token_name(t, *pair >> 16), *right = token_name(t, *pair & 0xffff);
        fprintf(file, "%s %s\n", left, right);
        free(left);
        free(right);
    }
    output_close(file);
    free(vocab_path);
    free(merges_path);
}

// A tokenizer that is being read, the names of its tokens by id, and the files they are in.
typedef struct { Tokenizer *t; Map names; char *vocab_path, *merges_path; } Reading;

// Reads the names of an object such as vocab.json's. Dies unless it has 257 tokens or more, and
// every id from 0 up once.
void read_vocab(Reading *r, const Json *vocab) {
    size_t count = 0;
    for (const Json *token = vocab->child; token; token = token->next) count++;
    if (count < TOKENS_MIN || count > TOKENS_MAX)
        die("%s: %zu tokens, expected %d (the bytes and <|endoftext|>) to %d", r->vocab_path, count,
            TOKENS_MIN, TOKENS_MAX);
    const char **by_id = allocate(count, sizeof *by_id);
    for (const Json *token = vocab->child; token; token = token->next) {
        if (!json_whole(token, count - 1))
            die("%s: the id of \"%.99s\" is not a whole number from 0 to %zu", r->vocab_path,
                token->key, count - 1);
        int id = token->number;
        if (by_id[id])
            die("%s: id %d is both \"%.99s\" and \"%.99s\"", r->vocab_path, id, by_id[id],
                token->key);
        by_id[id] = token->key;
    }
    for (size_t id = 0; id < count; id++) map_add(&r->names, by_id[id], strlen(by_id[id]));
    free(by_id);
}

// Dies unless the name that the vocabulary gives to an id is that of the tokenizer's token.
void check_name(const Reading *r, int id) {
    size_t size;
    const char *found = map_key(&r->names, id, &size);
    char *name = token_name(r->t, id);
    if (strlen(name) != size || memcmp(name, found, size))
        die("%s: id %d is \"%.*s\", expected \"%.99s\"%s", r->vocab_path, id,
            (int)(size < 99 ? size : 99), found, name,
            id < 256 ? ": the first are the 256 bytes, as GPT-2 has them"
            : id < r->t->size - 1 ? ", by the merges" : "");
    free(name);
}

// Adds the next merge, of a line of merges.txt. Dies unless it is two tokens that were made before,
// with a space between them, and makes a new one, which has the next id and can be reached: what it
// makes must not be merged otherwise by the merges before.
void read_merge(Reading *r, const char *line, size_t size) {
    Tokenizer *t = r->t;
    size_t length;
    const char *space = memchr(line, ' ', size), *wrong = NULL;
    int number = t->merges.count + 1, left, right;
    if (t->size == r->names.count)
        die("%s: more than %d merges, for the %d tokens of the vocabulary", r->merges_path,
            number - 1, t->size);
    left = space ? map_find(&r->names, line, space - line) : -1;
    right = space ? map_find(&r->names, space + 1, line + size - space - 1) : -1;
    if (left < 0 || right < 0) wrong = "expected two tokens of the vocabulary and a space between";
    else if (left >= t->size - 1 || right >= t->size - 1) wrong = "one is made by no merge before";
    else if (!tokenizer_add(t, left, right)) wrong = "makes a token that was made before";
    else {
        const char *bytes = tokenizer_bytes(t, t->size - 2, &length);
        int *ids = allocate(length, sizeof *ids);
        if (encode_word(t, bytes, length, ids) != 1)
            wrong = "the merges before never leave these two side by side";
        free(ids);
    }
    if (wrong)
        die("%s: merge %d: \"%.*s\": %s", r->merges_path, number, (int)(size < 99 ? size : 99),
            line, wrong);
    check_name(r, t->size - 2);
}

// Reads a merges.txt, once its vocabulary is. Dies if it has no heading, or a merge is refused.
void read_merges(Reading *r) {
    size_t size;
    char *text = read_file(r->merges_path, &size), *line = text, *end = text + size;
    if (strncmp(text, "#version", 8)) die("%s: line 1: expected \"#version: 0.2\"", r->merges_path);
    while ((line = memchr(line, '\n', end - line)) && ++line < end) {
        const char *stop = memchr(line, '\n', end - line);
        read_merge(r, line, (stop ? stop : end) - line);
    }
    free(text);
}

// Checks a tokenizer.json, in which transformers keeps the vocabulary and the merges. Dies unless
// it is of GPT-2's kind. Returns its "model", whose vocabulary has <|endoftext|> then.
const Json *tokenizer_json(const char *path, const Json *file) {
    const Json *model = json_get(file, "model"), *merges = json_get(model, "merges");
    const Json *cut = json_get(file, "pre_tokenizer"), *cuts = json_get(cut, "pretokenizers");
    const Json *added = json_get(file, "added_tokens");
    Json *vocab = json_get(model, "vocab");
    if (cuts && cuts->child && !cuts->child->next) cut = cuts->child; // a sequence of one
    json_expect(path, file, "normalizer", "null");
    json_expect(path, model, "type", "BPE");
    json_expect(path, model, "continuing_subword_prefix", "|null");
    json_expect(path, model, "end_of_word_suffix", "|null");
    json_expect(path, cut, "type", "ByteLevel");
    json_expect(path, cut, "add_prefix_space", "false");
    json_expect(path, cut, "use_regex", "true");
    if (!vocab || vocab->type != '{' || !merges || !json_get(cut, "type"))
        die("%s: expected a \"model\" with \"vocab\" and \"merges\", and \"pre_tokenizer\"", path);
    for (const Json *x = added ? added->child : NULL; x; x = x->next) {
        const Json *name = json_get(x, "content"), *id = json_get(x, "id");
        const Json *known = json_get(vocab, end_of_text);
        if (!id || !name || !name->string || strcmp(name->string, end_of_text)
            || (known && known->number != id->number))
            die("%s: \"added_tokens\": expected none but %s, the last", path, end_of_text);
        if (known) continue;
        Json *token = allocate(1, sizeof *token);
        *token = (Json){'0', join(end_of_text, "", ""), .number = id->number, .next = vocab->child};
        vocab->child = token;
    }
    return model;
}

// Reads FOLDER/vocab.json and FOLDER/merges.txt or, if they are not there, FOLDER/tokenizer.json.
// Dies, in one line that says what was found and what was expected, unless they are well-formed and
// agree: merge k makes token 256 + k, and <|endoftext|> is the last.
Tokenizer *tokenizer_load(const char *folder) {
    char *vocab = join(folder, "/", "vocab.json"), *both = join(folder, "/", "tokenizer.json");
    char *merges = join(folder, "/", "merges.txt");
    bool apart = !access(vocab, F_OK);
    if (!apart && access(both, F_OK))
        die("%s: has no vocab.json or tokenizer.json (./prepare_data.sh makes data folders)",
            folder);
    Reading r = {tokenizer_new(), {0}, apart ? vocab : both, apart ? merges : both};
    Json *file = json_read(r.vocab_path);
    const Json *model = apart ? NULL : tokenizer_json(both, file);
    read_vocab(&r, apart ? file : json_get(model, "vocab"));
    for (int id = 0; id < 256; id++) check_name(&r, id);
    if (apart) read_merges(&r);
    else for (const Json *x = json_get(model, "merges")->child; x; x = x->next) {
        const Json *left = x->child, *right = left ? left->next : NULL; // ["a", "b"], or "a b"
        bool pair = right && left->string && right->string;
        char *line = join(pair ? left->string : "", pair ? " " : "",
                          pair ? right->string : x->string ? x->string : "");
        read_merge(&r, line, strlen(line));
        free(line);
    }
    if (r.t->size != r.names.count)
        die("%s: %d merges, expected %d, for the %d tokens of the vocabulary", r.merges_path,
            r.t->merges.count, r.names.count - TOKENS_MIN, r.names.count);
    check_name(&r, r.t->size - 1);
    json_free(file), map_free(&r.names);
    free(vocab), free(merges), free(both);
    return r.t;
}

// -------------------------------------------------------------------------------------------------
// Files of tokens.

typedef struct {
    char name[32];  // for whoever reads the file to set
    uint16_t *ids;
    size_t count;
    uint64_t hash;  // of all ids
} Tokens;

// Continues a hash over 32 bits: a polynomial modulo 2^64, so that any one change alters it.
uint64_t hash_bits(uint64_t hash, uint32_t bits) {
    return hash * 0x9E3779B97F4A7C15u + bits + 1;
}

// Reads a file of tokens. Dies unless it is whole, was made with this tokenizer and has `least`
// tokens or more.
Tokens tokens_load(const char *path, const Tokenizer *t, size_t least) {
    enum { HEADER = 4 * TOKENS_HEADER }; // its bytes
    Tokens tokens = {0};
    size_t size;
    char *bytes = read_file(path, &size);
    const uint32_t *header = (const uint32_t *)bytes;
    if (size < HEADER)
        die("%s: %zu bytes, expected a file of tokens, whose header has %d", path, size,
            HEADER);
    if (header[0] != TOKENS_MAGIC || header[1] != TOKENS_VERSION)
        die("%s: is not a file of tokens: begins with %u %u, expected %d %d", path, header[0],
            header[1], TOKENS_MAGIC, TOKENS_VERSION);
    if ((size - HEADER) / 2 != header[2] || size % 2)
        die("%s: header says %u tokens, but %zu bytes follow it", path, header[2],
            size - HEADER);
    if (header[3] && header[3] != tokenizer_hash(t))
        die("%s: made with another tokenizer (its vocabulary has hash %08x, this one %08x)", path,
            header[3], tokenizer_hash(t));
    tokens.count = header[2];
    tokens.ids = memmove(bytes, bytes + HEADER, size - HEADER); // over the header
    for (size_t i = 0; i < tokens.count; i++) {
        if (tokens.ids[i] >= t->size)
            die("%s: token %zu is %d, beyond the vocabulary of %d", path, i, tokens.ids[i],
                t->size);
        tokens.hash = hash_bits(tokens.hash, tokens.ids[i]);
    }
    if (tokens.count < least)
        die("%s: %zu tokens, expected at least %zu", path, tokens.count, least);
    return tokens;
}

// Returns what is in a folder and has this ending, without it, separated by commas, to be freed.
char *folder_list(const char *folder, const char *ending) {
    struct dirent **entries = NULL;
    char *names = join("", "", "");
    int count = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < count; free(entries[i++])) {
        char *name = entries[i]->d_name;
        size_t length = strlen(name), cut = strlen(ending);
        if (*name == '.' || length < cut || strcmp(name + length - cut, ending)) continue;
        name[length - cut] = 0;
        char *longer = join(names, *names ? ", " : "", name);
        free(names);
        names = longer;
    }
    free(entries);
    return names;
}

enum { MAX_DOMAINS = 8 };

// Loads FOLDER/DOMAIN_SPLIT.bin for each domain of a list into `files`, which has room for
// MAX_DOMAINS. Returns how many there are, of no list (NULL) 0. Dies if one is not there, or has
// less than `least` tokens.
size_t domains_load(Tokens *files, const char *folder, const char *list, const char *split,
                    const Tokenizer *t, size_t least) {
    size_t count = 0;
    for (const char *next = list; next; next = strchr(next, ',') ? strchr(next, ',') + 1 : NULL) {
        char name[sizeof files->name], path[4096];
        size_t length = strcspn(next, ",");
        if (length == 0 || length >= sizeof name)
            die("domains %s: expected names of 1 to %zu bytes, separated by commas", list,
                sizeof name - 1);
        if (count == MAX_DOMAINS) die("domains %s: more than %d", list, MAX_DOMAINS);
        snprintf(name, sizeof name, "%.*s", (int)length, next);
        if (snprintf(path, sizeof path, "%s/%s_%s.bin", folder, name, split) >= (int)sizeof path)
            die("%s: path too long", folder);
        if (access(path, F_OK) && errno == ENOENT)
            die("%s: not there (what is: %s)", path, folder_list(folder, ".bin"));
        files[count] = tokens_load(path, t, least);
        memcpy(files[count].name, name, sizeof name);
        for (size_t i = 0; i < count; i++)
            if (!strcmp(files[i].name, name)) die("domains %s: %s is there twice", list, name);
        count++;
    }
    return count;
}

// Returns texts one behind the other, as one.
Tokens tokens_join(const Tokens *texts, size_t count) {
    Tokens all = {0};
    size_t capacity = 0;
    for (size_t k = 0; k < count; k++) {
        all.ids = grow(all.ids, &capacity, all.count + texts[k].count + 1, sizeof *all.ids);
        memcpy(all.ids + all.count, texts[k].ids, texts[k].count * sizeof *all.ids);
        all.count += texts[k].count;
        all.hash = hash_bits(all.hash, 0) + texts[k].hash;
    }
    return all;
}

// Sets the marks of all tokens that texts have.
void tokens_mark(bool *marks, const Tokens *texts, size_t count, bool mark) {
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < texts[k].count; i++) marks[texts[k].ids[i]] = mark;
}

// Frees the ids of texts.
void tokens_free(Tokens *texts, size_t count) {
    while (count > 0) free(texts[--count].ids);
}

#ifdef TOKENIZER_LIBRARY
// -------------------------------------------------------------------------------------------------
// Multiple-choice items: files of JSON lines as HellaSwag publishes them, {"ctx": "...", "endings":
// ["...", ...], "label": 0}; "query" and "choices" are other names of the first two. A blank goes
// between context and ending, unless either brings its own.

enum { MAX_ENDINGS = 64 };

typedef struct {
    size_t label, endings;                  // which is right, of how many
    size_t context;                         // of the tokens of each, so many are the context's
    int *ids[MAX_ENDINGS];                  // the context and, behind it, an ending
    size_t count[MAX_ENDINGS];              // how many ids
    size_t characters[MAX_ENDINGS];         // of the ending
} Item;

// Reads an item, whose ids are to be freed. Blanks at the end of the context count as the ending's.
// Dies, saying where, unless there is a context, a list of endings, and a label that counts them
// from 0, and context and ending have `most` tokens or less.
Item item_read(const char *where, const char *line, size_t size, const Tokenizer *t, size_t most) {
    Item item = {0};
    Json *json = json_parse(where, line, size);
    const Json *context = json_get(json, "ctx"), *list = json_get(json, "endings");
    const Json *label = json_get(json, "label");
    if (!context) context = json_get(json, "query");
    if (!list) list = json_get(json, "choices");
    if (!context || !context->string || !*context->string || !list)
        die("%s: expected \"ctx\" (or \"query\"), a text, and \"endings\" (\"choices\")", where);
    size_t length = strlen(context->string);
    while (length > 1 && isspace((unsigned char)context->string[length - 1])) length--;
    free(tokenizer_encode(t, context->string, length, &item.context));
    for (const Json *x = list->child; x; x = x->next) {
        size_t k = item.endings++;
        if (!x->string || !*x->string || k == MAX_ENDINGS)
            die("%s: ending %zu: expected a text, and at most %d", where, k, MAX_ENDINGS);
        char *text = join(context->string, context->string[length] || *x->string == ' ' ? "" : " ",
                          x->string);
        item.ids[k] = tokenizer_encode(t, text, strlen(text), &item.count[k]);
        if (item.count[k] > most || item.count[k] <= item.context)
            die("%s: ending %zu: %zu tokens in all, expected more than the context's, at most %zu",
                where, k, item.count[k], most);
        for (const char *c = x->string; *c; c++) item.characters[k] += (*c & 0xc0) != 0x80;
        free(text);
    }
    if (!item.endings || !json_whole(label, item.endings - 1))
        die("%s: expected a \"label\" that counts the %zu endings from 0", where, item.endings);
    item.label = label->number;
    json_free(json);
    return item;
}

// Reads a file of items, one a line. Returns them, to be freed, and how many there are.
Item *items_load(const char *path, const Tokenizer *t, size_t most, size_t *count) {
    size_t size, capacity = 0;
    char where[4096], *text = read_file(path, &size), *end;
    Item *items = NULL;
    *count = 0;
    for (char *at = text; at < text + size; at = end + 1) {
        end = memchr(at, '\n', text + size - at);
        if (!end) end = text + size;
        items = grow(items, &capacity, *count + 1, sizeof *items);
        snprintf(where, sizeof where, "%s: line %zu", path, *count + 1);
        items[(*count)++] = item_read(where, at, end - at, t, most);
    }
    if (!items) die("%s: is empty, expected items", path);
    free(text);
    return items;
}

// -------------------------------------------------------------------------------------------------
// safetensors, for nr.c, which says what `real` is: 8 bytes with the length of a header, the header
// in JSON, and then the tensors, in float32 or int32. The header has for each tensor its dtype, its
// shape and where its bytes are, and some texts under "__metadata__". Ours say there with "hash"
// which values the file holds, continued from the hash of what they were trained upon, "upon": so a
// damaged file is noticed, and one that is put upon something else.

typedef struct {
    char name[64];
    const char *dtype;   // F32: reals in memory; I32: int32
    size_t rank, shape[2];
    void *data;
    uint64_t start;      // of its bytes, among the tensors'
} Stored;

// What a file holds, to read or to write.
typedef struct { Stored *at; size_t count, capacity; } StoredList;

// Returns how many values a tensor has.
size_t stored_size(const Stored *x) {
    return x->shape[0] * x->shape[1];
}

// Adds a tensor to a list: a vector, if it has no rows, or a matrix. Its name may have a %d, for
// the layer.
void stored_add(StoredList *list, const char *name, int layer, const char *dtype, size_t rows,
                size_t cols, void *data) {
    list->at = grow(list->at, &list->capacity, list->count + 1, sizeof *list->at);
    Stored *x = &list->at[list->count++];
    *x = (Stored){.dtype = dtype, .rank = rows ? 2 : 1,
                  .shape = {rows ? rows : cols, rows ? cols : 1}, .data = data};
    snprintf(x->name, sizeof x->name, name, layer);
}

// Continues a hash over the values of a list, reals as float32.
uint64_t stored_hash(uint64_t hash, const StoredList *list) {
    for (const Stored *x = list->at; x < list->at + list->count; x++)
        for (size_t i = 0; i < stored_size(x); i++) {
            union { uint32_t bits; float value; } as;
            if (x->dtype[0] == 'F') as.value = ((real *)x->data)[i];
            else as.bits = ((uint32_t *)x->data)[i];
            hash = hash_bits(hash, as.bits);
        }
    return hash;
}

// Writes a file. upon: the hash that theirs continues; metadata: texts of plain characters,
// ,"key":"value" each. Dies if the file cannot be written.
void safetensors_write(const char *path, const StoredList *list, uint64_t upon,
                       const char *metadata) {
    char *header = NULL;
    size_t size, offset = 0;
    FILE *text = open_memstream(&header, &size), *file = output_open(path);
    if (!text) die("%s: out of memory for its header", path);
    fprintf(text, "{\"__metadata__\":{\"format\":\"pt\",\"upon\":\"%016" PRIx64 "\",\"hash\":\"%016"
            PRIx64 "\"%s}", upon, stored_hash(upon, list), metadata);
    for (const Stored *x = list->at; x < list->at + list->count; x++) {
        fprintf(text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu", x->name, x->dtype, x->shape[0]);
        if (x->rank == 2) fprintf(text, ",%zu", x->shape[1]);
        fprintf(text, "],\"data_offsets\":[%zu,%zu]}", offset, offset + 4 * stored_size(x));
        offset += 4 * stored_size(x);
    }
    fputc('}', text);
    while (ftell(text) % 8 > 0) fputc(' ', text); // so that the data is aligned
    if (ferror(text) || fclose(text) || !header) die("%s: out of memory for its header", path);
    fwrite(&(uint64_t){size}, 8, 1, file);
    fwrite(header, 1, size, file);
    free(header);
    for (const Stored *x = list->at; x < list->at + list->count; x++) {
        bool as_it_is = sizeof(real) == 4 || x->dtype[0] == 'I';
        if (as_it_is) fwrite(x->data, 4, stored_size(x), file);
        for (size_t i = 0; !as_it_is && i < stored_size(x); i++)
            fwrite(&(float){((real *)x->data)[i]}, 4, 1, file);
    }
    output_close(file);
}

// A file that is being read: its tensors' data are the `size` bytes from `start` on.
typedef struct {
    const char *path;
    FILE *file;
    uint64_t start, size;
    Json *header;
    const Json *metadata;
} Safetensors;

// Opens a file and reads its header. Dies if it is not there, or its header is none.
Safetensors safetensors_open(const char *path) {
    Safetensors s = {.path = path, .file = open_file(path)};
    uint64_t length = 0;
    struct stat status;
    fstat(fileno(s.file), &status);
    uint64_t whole = status.st_size;
    if (fread(&length, sizeof length, 1, s.file) != 1)
        die("%s: shorter than the 8 bytes a safetensors file starts with", path);
    if (whole < 8 || length > whole - 8 || length > 100 << 20)
        die("%s: says its header has %" PRIu64 " bytes, but the file has %" PRIu64, path, length,
            whole);
    char *text = allocate(length + 1, 1);
    if (fread(text, 1, length, s.file) != length) die("%s: %s", path, strerror(errno));
    s.header = json_parse(path, text, length);
    free(text);
    if (s.header->type != '{') die("%s: the header is not a JSON object", path);
    s.metadata = json_get(s.header, "__metadata__");
    s.start = 8 + length;
    s.size = whole - s.start;
    return s;
}

// Ends the reading of a file.
void safetensors_close(Safetensors *s) {
    if (s->file != stdin) fclose(s->file);
    json_free(s->header);
}

// Returns a text of the metadata; dies if there is none of this name.
const char *metadata_text(const Safetensors *s, const char *key) {
    const Json *x = json_get(s->metadata, key);
    if (!x || !x->string)
        die("%s: its metadata has no \"%s\": not made by this version of nr", s->path, key);
    return x->string;
}

// Reads from the metadata those settings that lie in the first `size` bytes of *base.
void settings_load(void *base, size_t size, const Setting *table, int count, const Safetensors *s) {
    char source[512];
    snprintf(source, sizeof source, "%.400s: metadata ", s->path);
    for (const Setting *o = table; o < table + count; o++)
        if (o->at < size) setting_set(base, o, source, metadata_text(s, o->name));
}

// Returns a hash that the metadata say, in hexadecimal.
uint64_t metadata_hash(const Safetensors *s, const char *key) {
    return strtoull(metadata_text(s, key), NULL, 16);
}

// Was a file made under the settings in `metadata`? If it must, dies naming the first that differs.
bool metadata_compare(const Safetensors *s, const char *metadata, bool must) {
    char text[2048];
    bool same = true;
    snprintf(text, sizeof text, "{\"format\":\"pt\"%s}", metadata);
    Json *here = json_parse(s->path, text, strlen(text));
    for (const Json *x = here->child; x && same; x = x->next) {
        const Json *saved = json_get(s->metadata, x->key);
        same = saved && saved->string && !strcmp(saved->string, x->string);
        if (must && !same)
            die("%s: saved under other settings: %s %.80s, and now %s", s->path, x->key,
                metadata_text(s, x->key), x->string);
    }
    json_free(here);
    return same;
}

// Finds one tensor in the header, with or without Hugging Face's "transformer." before its name.
// Dies unless it is there with its dtype and shape, and lies within the file.
void safetensors_find_one(const Safetensors *s, Stored *x) {
    char longer[128];
    snprintf(longer, sizeof longer, "transformer.%s", x->name);
    const Json *found = json_get(s->header, x->name);
    if (!found) found = json_get(s->header, longer);
    if (!found) die("%s: has no tensor %s", s->path, x->name);
    const Json *kind = json_get(found, "dtype"), *shape = json_get(found, "shape");
    const Json *at = json_get(found, "data_offsets");
    const char *dtype = kind && kind->string ? kind->string : "nothing";
    if (strcmp(dtype, x->dtype))
        die("%s: %s is stored as %s, expected %s (in Python: "
            "model.float().save_pretrained(folder))", s->path, x->name, dtype, x->dtype);
    const Json *side = shape ? shape->child : NULL;
    for (size_t k = 0; k <= x->rank; k++, side = side ? side->next : NULL) {
        double expected = k < x->rank ? x->shape[k] : 0, number = side ? side->number : 0;
        if ((side != NULL) != (k < x->rank) || number != expected)
            die("%s: %s: side %zu of its shape is %g, expected %g", s->path, x->name, k, number,
                expected);
    }
    const Json *begin = at ? at->child : NULL, *end = begin ? begin->next : NULL;
    size_t bytes = 4 * stored_size(x);
    if (!json_whole(begin, s->size) || !json_whole(end, s->size) || end->next
        || end->number - begin->number != bytes)
        die("%s: %s: its data_offsets are not those of %zu bytes among the file's %" PRIu64,
            s->path, x->name, bytes, s->size);
    x->start = begin->number;
}

// Finds every tensor of a list. Dies unless each has bytes of its own, and there is nothing else
// except Hugging Face's causal masks and the copy of the tied head.
void safetensors_find(const Safetensors *s, StoredList *list) {
    size_t tensors = 0;
    for (Stored *x = list->at; x < list->at + list->count; x++) {
        safetensors_find_one(s, x);
        for (const Stored *y = list->at; y < x; y++)
            if (x->start < y->start + 4 * stored_size(y)
                && y->start < x->start + 4 * stored_size(x))
                die("%s: %s and %s share bytes", s->path, y->name, x->name);
    }
    for (const Json *x = s->header->child; x; x = x->next)
        tensors += !strstr(x->key, ".attn.bias") && !strstr(x->key, ".attn.masked_bias")
                && strcmp(x->key, "lm_head.weight") && strcmp(x->key, "__metadata__");
    if (tensors > list->count)
        die("%s: has %zu tensors that do not belong to it", s->path, tensors - list->count);
}

// After safetensors_find: fills the data of every tensor. Dies unless they have the hash that the
// metadata say, if they say one.
void safetensors_read(const Safetensors *s, const StoredList *list) {
    for (const Stored *x = list->at; x < list->at + list->count; x++) {
        size_t count = stored_size(x);
        if (fseeko(s->file, s->start + x->start, SEEK_SET)
            || fread(x->data, 4, count, s->file) != count)
            die("%s: %s cannot be read: %s", s->path, x->name, strerror(errno));
        bool as_it_is = sizeof(real) == 4 || x->dtype[0] == 'I';
        for (size_t i = as_it_is ? 0 : count; i-- > 0;) { // widen in place, from the end
            float value;
            memcpy(&value, (char *)x->data + 4 * i, 4);
            ((real *)x->data)[i] = value;
        }
    }
    if (!json_get(s->metadata, "hash")) return;
    uint64_t hash = stored_hash(metadata_hash(s, "upon"), list);
    if (hash != metadata_hash(s, "hash"))
        die("%s: damaged: its values have hash %016" PRIx64 ", its metadata says %.16s", s->path,
            hash, metadata_text(s, "hash"));
}
#endif

#ifndef TOKENIZER_LIBRARY

// -------------------------------------------------------------------------------------------------
// Training: count the distinct words, then merge the most frequent pair of neighbours, again and
// again. A merge changes the counts of the pairs beside it only.

// A word's tokens, so far, are the `size` ids from ids[start] on.
typedef struct { uint64_t count; size_t start; int size; } Word;

typedef struct {
    Map word_map;     // the distinct words of the text
    Word *words;      // the same by number
    uint16_t *ids;    // their tokens
    Map pair_map;     // the pairs in the words, uint32 left << 16 | right each
    uint64_t *counts; // how often they are in the text, by number
    size_t word_capacity, pair_capacity;
} Trainer;

// Counts the words of a piece of text.
void count_words(Trainer *tr, const char *text, size_t size) {
    for (size_t at = 0, n; at < size; at += n) {
        n = word_length(text + at, size - at);
        int known = tr->word_map.count, w = map_add(&tr->word_map, text + at, n);
        tr->words = grow(tr->words, &tr->word_capacity, w + 1, sizeof *tr->words);
        if (w == known) tr->words[w] = (Word){0, tr->word_map.start[w], n};
        tr->words[w].count++;
    }
}

// Adds to the count of a pair; of a negative number, the complement.
void count_pair(Trainer *tr, uint32_t left, uint32_t right, uint64_t more) {
    uint32_t key = left << 16 | right;
    int known = tr->pair_map.count, p = map_add(&tr->pair_map, &key, sizeof key);
    tr->counts = grow(tr->counts, &tr->pair_capacity, p + 1, sizeof *tr->counts);
    tr->counts[p] = (p == known ? 0 : tr->counts[p]) + more;
}

// Merges left and right into id wherever they are neighbours in a word, from its start on.
void merge_in_word(Trainer *tr, Word *word, int left, int right, int id) {
    uint16_t *ids = tr->ids + word->start;
    int size = 0;
    for (int i = 0; i < word->size; i++) {
        bool found = ids[i] == left && i + 1 < word->size && ids[i + 1] == right;
        if (found && size > 0) {
            count_pair(tr, ids[size - 1], left, -word->count);
            count_pair(tr, ids[size - 1], id, word->count);
        }
        if (found && i + 2 < word->size) {
            count_pair(tr, right, ids[i + 2], -word->count);
            count_pair(tr, id, ids[i + 2], word->count);
        }
        ids[size++] = found ? id : ids[i];
        i += found;
    }
    word->size = size;
}

// Adds merges to a tokenizer that has none, until it has `size` tokens: the pair that is most
// frequent in the words counted so far is next, among equals that of the lowest left id, then of
// the lowest right id. Stops earlier when no pair occurs twice.
void find_merges(Trainer *tr, Tokenizer *t, int size) {
    int n_words = tr->word_map.count;
    size_t total = n_words ? tr->word_map.start[n_words] : 0, length;
    tr->ids = allocate(total, sizeof *tr->ids);
    for (size_t i = 0; i < total; i++) tr->ids[i] = byte_id[(unsigned char)tr->word_map.bytes[i]];
    for (int w = 0; w < n_words; w++) {
        const uint16_t *ids = tr->ids + tr->words[w].start;
        for (int i = 0; i + 1 < tr->words[w].size; i++)
            count_pair(tr, ids[i], ids[i + 1], tr->words[w].count);
    }
    while (t->size < size) {
        uint64_t most = 1;
        uint32_t best = 0;
        int number = 0;
        for (int p = 0; p < tr->pair_map.count; p++) {
            uint32_t key = *(const uint32_t *)map_key(&tr->pair_map, p, &length);
            if (tr->counts[p] > most || (tr->counts[p] == most && key < best))
                most = tr->counts[p], best = key, number = p;
        }
        if (most < 2) return;
        int left = best >> 16, right = best & 0xffff, id = t->size - 1;
        tokenizer_add(t, left, right);
        for (int w = 0; w < n_words; w++) merge_in_word(tr, &tr->words[w], left, right, id);
        tr->counts[number] = 0;
    }
}

// -------------------------------------------------------------------------------------------------
// The command line.

const char help[] =
    "tokenizer: a byte-level BPE tokenizer, exact against GPT-2's.\n\n"
    "    tokenizer train  -v SIZE [--lines] -o FOLDER FILE...   makes a vocabulary\n"
    "    tokenizer encode -m FOLDER [--lines] [-o FILE] FILE... turns text into tokens\n"
    "    tokenizer decode -m FOLDER FILE...                     turns files of tokens into text\n\n"
    "A FILE of text may hold any bytes; - is standard input.\n\n"
    "    -v, --vocab SIZE     the number of tokens, 257 to 65535: the 256 bytes, the merges and\n"
    "                         <|endoftext|>. 1024 suits a small model; below 300 little is\n"
    "                         merged. There are fewer, and train says so, when no pair of tokens\n"
    "                         occurs twice any more. Of equally frequent pairs the one with the\n"
    "                         lowest ids is merged first.\n"
    "    -m, --model FOLDER   where vocab.json and merges.txt are, GPT-2's or those that train\n"
    "                         wrote, or the tokenizer.json of a GPT-2 that transformers saved.\n"
    "    -o, --output FOLDER  train: where to write them. It is created if it is not there.\n"
    "    -o, --output FILE    encode: write a file as llm.c's, 256 int32 and then 16 bits a\n"
    "                         token, <|endoftext|> behind every document; - is standard output.\n"
    "                         Default: print the ids, a line for each document.\n"
    "    -l, --lines          every line is a document, less its newline; encode skips empty\n"
    "                         ones. Default: every file is a document.\n"
    "    -h, --help           print this.\n\n"
    "decode prints <|endoftext|> as a newline. So what was encoded with --lines comes back as it\n"
    "was, but for empty lines; what was encoded as a whole comes back with a newline more at its\n"
    "end. Tokens of another vocabulary are refused. An example:\n\n"
    "    ./tokenizer train -v 1024 --lines -o model captions.txt\n"
    "    ./tokenizer encode -m model --lines -o captions.bin captions.txt\n"
    "    ./tokenizer decode -m model captions.bin | cmp - captions.txt\n";

typedef struct {
    const char *model, *output;
    long vocab, lines;
    char **files;
    int file_count;
} Options;

// Returns the length of the document at s: with `lines` it ends where the line does, otherwise
// behind all n bytes.
size_t document_length(const char *s, size_t n, int lines) {
    const char *end = lines ? memchr(s, '\n', n) : NULL;
    return end ? (size_t)(end - s) : n;
}

// Trains a vocabulary on files and writes it to a folder.
void command_train(const Options *options) {
    static Trainer trainer; // it is never freed: the program ends
    Tokenizer *t = tokenizer_new();
    for (int i = 0; i < options->file_count; i++) {
        size_t size, n;
        char *text = read_file(options->files[i], &size);
        for (size_t at = 0; at < size; at += n + options->lines) {
            n = document_length(text + at, size - at, options->lines);
            count_words(&trainer, text + at, n);
        }
        free(text);
    }
    find_merges(&trainer, t, options->vocab);
    if (t->size < options->vocab)
        fprintf(stderr, "%s: %d tokens, not %ld: no further pair occurs twice in the text\n",
                program, t->size, options->vocab);
    tokenizer_save(t, options->output);
    tokenizer_free(t);
}

// Encodes files, to a file of tokens or, as numbers, to standard output.
void command_encode(const Options *options) {
    Tokenizer *t = tokenizer_load(options->model);
    int32_t header[TOKENS_HEADER] = {TOKENS_MAGIC, TOKENS_VERSION, 0, tokenizer_hash(t)};
    uint16_t *all = NULL, end = t->size - 1;
    size_t total = 0, capacity = 0;
    for (int i = 0; i < options->file_count; i++) {
        size_t size, n, at = 0, count;
        char *text = read_file(options->files[i], &size);
        do {
            n = document_length(text + at, size - at, options->lines);
            int *ids = tokenizer_encode(t, text + at, n, &count);
            all = grow(all, &capacity, total + count + 1, sizeof *all);
            for (size_t k = 0; k < count; k++) all[total++] = ids[k];
            if (n > 0 || !options->lines) all[total++] = end;
            free(ids);
            at += n + options->lines;
        } while (at < size);
        free(text);
        if (total > INT32_MAX)
            die("%s: more than %d tokens, which a file cannot have", options->files[i], INT32_MAX);
    }
    header[2] = total;
    if (options->output) {
        FILE *file = output_open(options->output);
        fwrite(header, sizeof header, 1, file);
        fwrite(all, sizeof *all, total, file);
        output_close(file);
    }
    for (size_t k = 0; !options->output && k < total; k++)
        if (all[k] == end) putchar('\n');
        else printf("%s%d", k && all[k - 1] != end ? " " : "", all[k]);
    free(all);
    tokenizer_free(t);
}

// Prints the text of files of tokens. Dies, before it prints anything of it, at a file that is not
// sound.
void command_decode(const Options *options) {
    Tokenizer *t = tokenizer_load(options->model);
    for (int i = 0; i < options->file_count; i++) {
        Tokens tokens = tokens_load(options->files[i], t, 0);
        for (size_t k = 0; k < tokens.count; k++) print_bytes(t, tokens.ids[k]);
        free(tokens.ids);
    }
    tokenizer_free(t);
}

enum { TRAIN = 1, ENCODE = 2, DECODE = 4, OPTIONS = 4, COMMANDS = 3 };
const Setting option_table[OPTIONS] = {
    {"vocab", 'v', WHOLE, offsetof(Options, vocab), TOKENS_MIN, TOKENS_MAX, NULL, TRAIN, ""},
    {"model", 'm', TEXT, offsetof(Options, model), 0, 0, NULL, ENCODE | DECODE, ""},
    {"output", 'o', TEXT, offsetof(Options, output), 0, 0, NULL, TRAIN | ENCODE, ""},
    {"lines", 'l', FLAG, offsetof(Options, lines), 0, 0, NULL, TRAIN | ENCODE, ""},
};

const struct { const char *name; void (*run)(const Options *); } command_table[COMMANDS] = {
    {"train", command_train}, {"encode", command_encode}, {"decode", command_decode},
};

// Reads the command line and runs the command. Dies, in one line, at anything that it does not
// know.
int main(int argc, char **argv) {
    Options options = {.files = argv + 2};
    uint64_t given = 0;
    int c = 0;
    const char *name = argc > 1 ? argv[1] : "nothing";
    bool asks = choice_index("-h|--help", '|', name) >= 0;
    while (c < COMMANDS && strcmp(name, command_table[c].name)) c++;
    if (!asks && c == COMMANDS)
        die("%s: expected a command: train, encode or decode; --help is the manual", name);
    if (!asks)
        options.file_count = settings_read(&options, option_table, OPTIONS, &given, 1 << c, name,
                                           argc - 2, argv + 2);
    if (asks || options.file_count < 0) {
        fputs(help, stdout);
        finish_stdout();
        return 0;
    }
    if (c == 0 && (!options.output || !options.vocab))
        die("train: expected --output and --vocab; --help is the manual");
    if (c > 0 && !options.model) die("%s: expected --model; --help is the manual", name);
    if (options.file_count == 0) die("%s: expected a FILE; - is standard input", name);
    command_table[c].run(&options);
    finish_stdout();
    return 0;
}
#endif
