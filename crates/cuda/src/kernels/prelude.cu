// What every kernel uses. CUDA C++ without headers: NVRTC needs none, and tests compile the same text for the host.
//
// Matrices are row-major, offsets and strides count elements. A weight comes as an address with `half`: 1 for bf16, 0
// for f32. Sums have a fixed order, so results do not vary from run to run: there are no atomic additions.

typedef unsigned short bf16;

/// Index i runs over 0..n, shared among all threads of the grid.
#define EACH(i, n)                                                                  \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (n);    \
         i += (long long)gridDim.x * blockDim.x)

#define ALL_LANES 0xffffffffu

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }

__device__ inline float widen_bf16(bf16 x) { return __uint_as_float((unsigned)x << 16); }

/// To nearest, ties to even; NaN stays NaN.
__device__ inline bf16 round_bf16(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return (bf16)((bits >> 16) | 0x40u);
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ inline float weight_at(const void* w, int half, long long i) {
    return half ? widen_bf16(((const bf16*)w)[i]) : ((const float*)w)[i];
}

template <typename T>
__device__ inline T warp_sum(T x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

/// The sum over a block of whole warps, in every thread.
template <typename T>
__device__ inline T block_sum(T x) {
    __shared__ T parts[32];
    x = warp_sum(x);
    __syncthreads(); // an earlier call's parts have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) total += parts[w];
    return total;
}

/// The maximum over a block of whole warps, in every thread; NaN are passed over.
__device__ inline float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float top = parts[0];
    for (int w = 1; w < (int)blockDim.x / 32; w++) top = fmaxf(top, parts[w]);
    return top;
}

/// A score under a soft cap (0: none).
__device__ inline float soften(float z, float cap) { return cap > 0.0f ? cap * tanhf(z / cap) : z; }

/// The derivative of `soften` at a value that it returned.
__device__ inline float softening(float z, float cap) {
    float ratio = z / cap;
    return cap > 0.0f ? 1.0f - ratio * ratio : 1.0f;
}
