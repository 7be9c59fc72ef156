/*
fuzz: whatever a file or a command line holds, nr takes it, or refuses it in one line. Is that so? `make fuzz` builds and runs
this.

    FUZZ=TARGET dev/fuzz/fuzz FOLDER...     lets libFuzzer look for an input that breaks TARGET, one of `targets`, starting
                                            from the files of the FOLDERs and adding to the first; -help=1: its options

A target is one reader of nr, and the input what it reads; the other files that it needs are sound ones, made at the start. An
input breaks it if a sanitizer finds a wrong access or undefined arithmetic, if it takes too long or too much memory, if it is
refused with more than one line or another status than 1, or if it is accepted and memory is left when all is freed.

A refusal ends the program, which here must go on: exit() becomes a jump back, and what was allocated since is freed. So the
sanitizer reports every allocation, and in nr.c a few names of the C library mean something else.
*/
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNSEEN __attribute__((no_sanitize("coverage")))  // code that does not make an input interesting

enum { BLOCKS = 1 << 15 };      // 64 - 49 bits of a hash
static _Thread_local bool inside;  // nr is at work on an input; libFuzzer has a second thread, which allocates too
static void *blocks[BLOCKS];   // a hash table of what it has allocated and not freed; FREED: was here
static size_t n_blocks;        // how many there ever were
static jmp_buf refused;        // where a refusal goes on
static FILE *errors;           // its stderr, kept in `message`
static char message[4096];
static FILE *opened;           // its open file: there is never more than one
static bool no_files;          // it finds none: a command line may name any
static void *workspace;        // see allocate_one
static bool workspace_taken;
#define FREED ((void *)-1)

// Ends the search: libFuzzer saves the input.
UNSEEN static _Noreturn void broken(const char *what)
{
    inside = false;
    fprintf(stderr, "fuzz: %s; nr said: \"%s\"\n", what, message);
    abort();
}

// Where a block is in the table or, if it is not there, may be put.
UNSEEN static void **block_find(const volatile void *block)
{
    size_t i = (uintptr_t)block * 0x9E3779B97F4A7C15u >> 49;
    while (blocks[i] && blocks[i] != block) i = (i + 1) % BLOCKS;
    return &blocks[i];
}

// The sanitizer calls this after it has allocated, and the next before it frees.
UNSEEN void __sanitizer_malloc_hook(const volatile void *block, size_t size)
{
    (void)size;
    if (!inside || !block) return;
    if (++n_blocks > BLOCKS / 2) broken("more allocations than `blocks` has room for");
    *block_find(block) = (void *)block;
}

UNSEEN void __sanitizer_free_hook(const volatile void *block)
{
    void **found = inside && block ? block_find(block) : NULL;
    if (found && *found) *found = FREED;
}

// Frees what nr has left, and returns how many blocks that were.
UNSEEN static size_t blocks_free(void)
{
    size_t left = 0;
    for (size_t i = 0; i < BLOCKS; i++)
        if (blocks[i] && blocks[i] != FREED) free(blocks[i]), left++;
    memset(blocks, 0, sizeof blocks);
    n_blocks = 0;
    return left;
}

// Refusals leave memory behind, and an allocation that cannot be is one of them. A short quarantine is fast.
UNSEEN const char *__asan_default_options(void)
{
    return "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16";
}

// Instead of exit(): nr has refused the input, in one line with something behind the program's name.
UNSEEN static _Noreturn void refuse(int status)
{
    const char *text = strstr(message, ": "), *end = strchr(message, '\n');
    if (!inside || status != 1 || !text || end <= text + 2 || end[1]) broken("not refused in one line");
    longjmp(refused, 1);
}

// Instead of fopen(): remembers the file, which a refusal leaves open.
UNSEEN static FILE *open_one(const char *path, const char *mode)
{
    if (inside && no_files) return errno = ENOENT, NULL;
    if (inside && opened) broken("a second file is opened");
    return opened = fopen(path, mode);
}

// Instead of fclose().
UNSEEN static int close_one(FILE *file)
{
    opened = NULL;
    return fclose(file);
}

// Instead of aligned_alloc(). A tokenizer's workspace, the first block of a megabyte or more, serves every input: to map and
// unmap it would take most of the time.
UNSEEN static void *allocate_one(size_t alignment, size_t size)
{
    static size_t kept_size;
    if (!inside || size < 1 << 20 || workspace_taken || (workspace && size != kept_size))
        return aligned_alloc(alignment, size);
    if (!workspace) {
        inside = false;  // it is not this input's
        workspace = aligned_alloc(alignment, kept_size = size);
        inside = true;
    }
    workspace_taken = true;
    return workspace;
}

// Instead of free().
UNSEEN static void free_one(void *block)
{
    if (block && block == workspace) workspace_taken = false;
    else free(block);
}

#undef stderr
#define stderr errors
#define aligned_alloc(alignment, size) allocate_one(alignment, size)
#define free(block) free_one(block)
#define exit(status) refuse(status)
#define fopen(path, mode) open_one(path, mode)
#define fclose(file) close_one(file)
#define sigaction(signal, action, old) ((void)(signal), (void)(action))  // libFuzzer has its own
#define main nr_main
#include "../../nr.c"

// ---------------------------------------------------------------------------------------------------------------------
// The sound files: the smallest of models, an extension of it, a state of its training, and tokens.

static char folder[128];
static Model *model;
static Training training;    // whose state is read
static const char settings_of_state[] = ",\"method\":\"sound\",\"lr\":\"1\"";

// The path of a file in the folder, until the next call.
static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

// Writes a file in the folder.
static void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(path_of(name), "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file)) broken("the input cannot be written");
}

// Makes them. Their values are not random: the model's hash, upon which the others are, is the same
// everywhere.
static void make_files(void)
{
    static const int merges[][2] = {{'a', 'b'}, {256, 'c'}, {'t', 'h'}, {' ', 258}, {259, 'e'}};
    static real values[3][2];
    static Tensors trained = {.memory = values[0], .size = 2};
    char metadata[1024];
    make_folders(folder, true);
    Tokenizer *t = tokenizer_new();
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        const int a = merges[i][0], b = merges[i][1];
        tokenizer_add(t, a < 256 ? byte_id[a] : a, b < 256 ? byte_id[b] : b);
    }
    const size_t V = (size_t)t->size;
    const Dims d = {.layers = 1, .heads = 1, .channels = 2, .positions = 2, .vocab = V};
    Model *m = model = model_new(&d, &initial.train, t);
    for (size_t i = 0; i < m->w.size; i++) m->w.memory[i] = (real)(i % 7) / 8;
    model_hash(m);
    for (size_t v = 0; v < V; v++) m->unseen[v] = v == 3 || v == 7;
    model_save(m, folder, "");

    Extension *x = allocate(1, sizeof *x);
    *x = (Extension){.config = train_config(&initial, NEUTRAL), .dims = d};
    x->config.hidden = x->config.rank = 1, x->config.new_rows = 2;
    x->dims.hidden = x->dims.rank = 1, x->dims.new_rows = 2;
    x->ids = allocate(2, sizeof(int)), x->ids[0] = 3, x->ids[1] = 7;
    extension_complete(x, &m->dims);
    x->w = tensors_allocate(x->sets, &x->dims);
    extension_attach(m, x);
    config_describe(metadata, &x->config, m, &(Loader){.p = 0});
    extension_save(m, path_of("extension.safetensors"), metadata);
    extension_drop(m);

    training = (Training){.m = m, .w = &trained, .step = 1};
    training.adam_m.memory = values[1], training.adam_v.memory = values[2];
    const StateFile file = {(char *)path_of("state.safetensors"), settings_of_state, 0, false};
    state_save(&file, &training, &(Loader){.p = 0}, 0);

    const struct { int32_t header[TOKENS_HEADER]; uint16_t ids[4]; } tokens = {
        {TOKENS_MAGIC, TOKENS_VERSION, 4, (int32_t)tokenizer_hash(m->tokenizer)}, {1, 2, 3, 4}};
    write_file("en_val.bin", &tokens, sizeof tokens);
}

// ---------------------------------------------------------------------------------------------------------------------
// The targets. Each writes the input where it is read, sets `inside`, and frees what nr has made of it. Behind the input is a
// NUL.

// A file of tokens.
static void fuzz_tokens(const char *input, size_t size)
{
    write_file("fuzz_val.bin", input, size);
    inside = true;
    free(tokens_load(path_of("fuzz_val.bin"), model->tokenizer, 1).ids);
}

// A list of domains, of which "en" is there.
static void fuzz_domains(const char *input, size_t size)
{
    Tokens files[MAX_DOMAINS];
    (void)size;
    inside = true;
    tokens_free(files, domains_load(files, folder, input, "val", model->tokenizer, 1));
}

// A model's config.json.
static void fuzz_config(const char *input, size_t size)
{
    write_file("config.json", input, size);
    inside = true;
    model_free(model_load(folder));
}

// A safetensors file. An input that starts with '{' is a header alone: its length and the sound file's data are added.
static void write_safetensors(const char *name, const char *input, size_t size)
{
    static char *sound;
    static size_t sound_size;
    if (!sound) sound = read_file(path_of(name), &sound_size);
    if (input[0] != '{') {
        write_file(name, input, size);
        return;
    }
    const uint64_t length = size;
    size_t start, whole;
    memcpy(&start, sound, 8), start += 8;
    char *bytes = allocate(whole = 8 + size + sound_size - start, 1);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, input, size);
    memcpy(bytes + 8 + size, sound + start, sound_size - start);
    write_file(name, bytes, whole);
    free(bytes);
}

// A model's weights.
static void fuzz_backbone(const char *input, size_t size)
{
    write_safetensors("model.safetensors", input, size);
    inside = true;
    model_free(model_load(folder));
}

// An extension of the sound model.
static void fuzz_extension(const char *input, size_t size)
{
    write_safetensors("extension.safetensors", input, size);
    model->wte = model->w.at[WTE];
    inside = true;
    extension_load(model, path_of("extension.safetensors"));
    extension_drop(model);
    if (model->wte != model->w.at[WTE]) free(model->wte);
}

// The state of a training.
static void fuzz_state(const char *input, size_t size)
{
    write_safetensors("state.safetensors", input, size);
    inside = true;
    Loader loader;
    const StateFile file = {(char *)path_of("state.safetensors"), settings_of_state, 0, true};
    state_load(&file, &training, &loader);
}

// vocab.json, and behind a NUL merges.txt: they have to agree.
static void fuzz_vocab(const char *input, size_t size)
{
    const size_t length = strlen(input), next = min_size(length + 1, size);
    write_file("vocab.json", input, length);
    write_file("merges.txt", input + next, size - next);
    inside = true;
    tokenizer_free(tokenizer_load(folder));
}

// merges.txt, of the sound vocab.json.
static void fuzz_merges(const char *input, size_t size)
{
    write_file("merges.txt", input, size);
    inside = true;
    tokenizer_free(tokenizer_load(folder));
}

// A text to encode; decoded, it is what it was.
static void fuzz_text(const char *input, size_t size)
{
    inside = true;
    Tokenizer *t = tokenizer_load(folder);
    size_t count, at = 0, length;
    int *ids = tokenizer_encode(t, input, size, &count);
    for (size_t i = 0; i < count; i++, at += length) {
        const char *bytes = tokenizer_bytes(t, ids[i], &length);
        if (length > size - at || memcmp(bytes, input + at, length)) broken("decoded, the text is another");
    }
    if (at != size) broken("decoded, the text is cut");
    free(ids);
    tokenizer_free(t);
}

// Multiple-choice items.
static void fuzz_items(const char *input, size_t size)
{
    write_file("items", input, size);
    inside = true;
    size_t count;
    Item *items = items_load(path_of("items"), model->tokenizer, 64, &count);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < items[i].endings; k++) free(items[i].ids[k]);
    free(items);
}

// A command line, every word on a line. There are no files, so a command ends at the first that it wants to read.
static void fuzz_options(const char *input, size_t size)
{
    char *words[64] = {"nr"}, *given[64];
    int n = 1;
    (void)size;
    no_files = inside = true;
    for (const char *word = input; word && n < 63; word = strchr(word, '\n') ? strchr(word, '\n') + 1 : NULL)
        words[n++] = strndup(word, strcspn(word, "\n"));
    memcpy(given, words, sizeof given);  // which nr puts in another order
    nr_main(n, words);
    while (n > 1) free(given[--n]);
}

static const struct { const char *name; void (*run)(const char *input, size_t size); } targets[] = {
    {"tokens", fuzz_tokens}, {"domains", fuzz_domains}, {"config", fuzz_config}, {"backbone", fuzz_backbone},
    {"extension", fuzz_extension}, {"state", fuzz_state}, {"vocab", fuzz_vocab}, {"merges", fuzz_merges}, {"text", fuzz_text}, {"items", fuzz_items},
    {"options", fuzz_options},
};
static size_t target;

// libFuzzer calls this once.
UNSEEN int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    static char printed[BUFSIZ];
    const char *name = getenv("FUZZ");
    const size_t count = sizeof targets / sizeof *targets;
    while (name && target < count && strcmp(targets[target].name, name)) target++;
    if (!name || target == count) broken("FUZZ is not the name of a target");
    errors = fmemopen(message, sizeof message, "w");
    if (!errors || !freopen("/dev/null", "w", stdout)) broken("nowhere to print to");
    setbuf(errors, NULL);
    setbuf(stdout, printed);  // or the first to print would seem to leave memory behind
    program = "nr";
    snprintf(folder, sizeof folder, "%s/nr_fuzz_%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", name);
    make_files();
    return 0;
}

// And this for every input.
UNSEEN int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *input = malloc(size + 1);  // to the byte, so that reading beyond it is noticed
    memcpy(input, data, size);
    input[size] = 0;
    rewind(errors);
    memset(message, 0, sizeof message);
    const bool accepted = !setjmp(refused);
    if (accepted) targets[target].run(input, size);
    if (opened) fclose(opened);
    workspace_taken = false;
    free(inputs), inputs = NULL, input_count = input_capacity = 0;
    inside = false;
    if (blocks_free() && accepted) broken("accepted, and memory is left behind");
    free(input);
    return 0;
}
