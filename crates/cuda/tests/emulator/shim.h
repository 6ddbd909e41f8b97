// CUDA's execution model on one thread of the host: enough of it for the kernels of this crate.
//
// Blocks run one after the other; the threads of a block are fibers that run until they end or wait at a barrier. Shared
// memory is static memory. A lane that leaves while others wait is a mistake of the kernel, and is reported.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(n)

struct Dim3 {
    unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline float __uint_as_float(unsigned x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
static inline unsigned __float_as_uint(float x) {
    unsigned y;
    memcpy(&y, &x, 4);
    return y;
}
template <typename T>
static inline T min(T a, T b) { return a < b ? a : b; }
template <typename T>
static inline T max(T a, T b) { return a < b ? b : a; }

enum State { FRESH, READY, AT_BLOCK, AT_WARP, DONE };
static const int MOST = 1024;
static const size_t STACK = 128 << 10;

static State states[MOST];
static int turns[MOST];
static char exchange[2][MOST][8];
static char* stacks;
static void (*running)(void**);
static void** arguments;
static const char* fault;

#if defined(__x86_64__)
static void* stack_pointers[MOST];
static void* scheduler;
extern "C" void emulator_switch(void** keep, void* next);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void to_scheduler() { emulator_switch(&stack_pointers[threadIdx.x], scheduler); }
static void entry() {
    running(arguments);
    states[threadIdx.x] = DONE;
    to_scheduler();
    abort();
}
static void resume(int t) {
    if (states[t] == FRESH) {
        void** top = (void**)(stacks + (size_t)(t + 1) * STACK - 16);
        *top = (void*)entry; // where `ret` goes, with the stack as after a call
        stack_pointers[t] = top - 6;
    }
    emulator_switch(&scheduler, stack_pointers[t]);
}
#else
static ucontext_t contexts[MOST], scheduler;
static void to_scheduler() { swapcontext(&contexts[threadIdx.x], &scheduler); }
static void entry() {
    running(arguments);
    states[threadIdx.x] = DONE;
    to_scheduler();
}
static void resume(int t) {
    if (states[t] == FRESH) {
        getcontext(&contexts[t]);
        contexts[t].uc_stack.ss_sp = stacks + (size_t)t * STACK;
        contexts[t].uc_stack.ss_size = STACK;
        makecontext(&contexts[t], entry, 0);
    }
    swapcontext(&scheduler, &contexts[t]);
}
#endif

static void wait_at(State where) {
    states[threadIdx.x] = where;
    to_scheduler();
}

static inline void __syncthreads() { wait_at(AT_BLOCK); }

template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int step) {
    int t = threadIdx.x, turn = turns[t] ^= 1;
    memcpy(exchange[turn][t], &value, sizeof(T));
    wait_at(AT_WARP);
    memcpy(&value, exchange[turn][t ^ step], sizeof(T));
    return value;
}

/// Lets threads `from..to` go on if all of them wait at `where`.
static bool release(int from, int to, State where) {
    for (int t = from; t < to; t++)
        if (states[t] != where) return false;
    for (int t = from; t < to; t++) states[t] = READY;
    return true;
}

static void run_block(int threads) {
    for (int t = 0; t < threads; t++) states[t] = FRESH;
    for (;;) {
        bool moved = false;
        for (int t = 0; t < threads; t++) {
            while (states[t] == FRESH || states[t] == READY) {
                threadIdx.x = t;
                resume(t);
                moved = true;
            }
            if (t % 32 == 31) moved |= release(t - 31, t + 1, AT_WARP);
        }
        if (release(0, threads, DONE)) return;
        moved |= release(0, threads, AT_BLOCK);
        if (!moved) {
            fault = "threads of a block wait at different barriers, or some have left";
            return;
        }
    }
}

// Calls of a kernel through an array of pointers to its arguments, and a letter for the type of each.
template <typename T> struct Code;
template <typename T> struct Code<T*> { static const char value = 'p'; };
template <> struct Code<int> { static const char value = 'i'; };
template <> struct Code<unsigned> { static const char value = 'w'; };
template <> struct Code<long long> { static const char value = 'l'; };
template <> struct Code<unsigned long long> { static const char value = 'u'; };
template <> struct Code<float> { static const char value = 'f'; };

template <typename... T> struct Types {};
template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };

template <typename... T, int... I>
static inline void call(void (*kernel)(T...), void** a, Indices<I...>) {
    kernel(*(T*)a[I]...);
    (void)a;
}
template <typename... T>
static inline void call(void (*kernel)(T...), void** a) {
    call(kernel, a, typename Count<sizeof...(T)>::type());
}
template <typename... T>
static const char* signature(void (*)(T...)) {
    static const char letters[] = {Code<T>::value..., 0};
    return letters;
}

struct Kernel {
    const char* name;
    void (*call)(void**);
    const char* letters;
};
#define KERNEL(name) {#name, [](void** a) { call(name, a); }, signature(name)},

static const char* run(const Kernel* kernels, const char* name, const char* letters, const unsigned* grid, unsigned block,
                       void** args) {
    static char text[256];
    if (!stacks) {
        size_t bytes = MOST * STACK;
        stacks = (char*)mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) return "no memory for stacks";
    }
    for (; kernels->name; kernels++)
        if (!strcmp(kernels->name, name)) break;
    if (!kernels->name) return "no such kernel";
    if (strcmp(kernels->letters, letters)) {
        snprintf(text, sizeof text, "arguments %s for parameters %s", letters, kernels->letters);
        return text;
    }
    if (block > MOST || block % 32) return "not a block of whole warps";
    running = kernels->call;
    arguments = args;
    fault = 0;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0] && !fault; blockIdx.x++) run_block(block);
    return fault;
}
