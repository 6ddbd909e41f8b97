// Normalisation, activations, dropout and rotary positions.

/// rstd[i] = 1/√(mean(x_i²) + eps), a block for each row.
extern "C" __global__ void rms_statistics(const float* x, float eps, float* rstd, long long d) {
    const float* row = x + blockIdx.x * d;
    float sum = 0.0f;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) sum += row[j] * row[j];
    sum = block_sum(sum);
    if (threadIdx.x == 0) rstd[blockIdx.x] = 1.0f / sqrtf(sum / (float)d + eps);
}

/// Mean and 1/√(variance + eps) of each row: two sweeps, since E(x²) − E(x)² cancels.
extern "C" __global__ void layer_statistics(const float* x, float eps, float* mean, float* rstd, long long d) {
    const float* row = x + blockIdx.x * d;
    double total = 0;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) total += row[j];
    float centre = (float)(block_sum(total) / (double)d);
    float sum = 0.0f;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) sum += (row[j] - centre) * (row[j] - centre);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = centre;
        rstd[blockIdx.x] = 1.0f / sqrtf(sum / (float)d + eps);
    }
}

/// y = (x − mean)·rstd·(offset + w) + b; `mean` and `b` may be null.
extern "C" __global__ void norm_apply(const float* x, const void* w, int w_half, float offset, const void* b,
                                      int b_half, const float* mean, const float* rstd, float* y, long long n,
                                      long long d) {
    EACH(e, n * d) {
        long long i = e / d, j = e % d;
        float normal = (x[e] - (mean ? mean[i] : 0.0f)) * rstd[i];
        y[e] = normal * (offset + weight_at(w, w_half, j)) + (b ? weight_at(b, b_half, j) : 0.0f);
    }
}

/// A block for each gradient row. Adds to dx; dw_rows and rows may be null.
extern "C" __global__ void norm_backward(const float* x, const void* w, int w_half, float offset, const float* mean,
                                         const float* rstd, const unsigned* rows, const float* dy, float* dx,
                                         float* dw_rows, long long d) {
    long long g = (long long)blockIdx.x, i = rows ? rows[g] : g;
    float m = mean ? mean[i] : 0.0f, s = rstd[i];
    float along = 0.0f, centre = 0.0f;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) {
        float slope = dy[g * d + j] * (offset + weight_at(w, w_half, j));
        along += slope * ((x[i * d + j] - m) * s);
        centre += slope;
    }
    along = block_sum(along) / (float)d;
    centre = mean ? block_sum(centre) / (float)d : 0.0f;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) {
        float normal = (x[i * d + j] - m) * s, dy_j = dy[g * d + j];
        float slope = dy_j * (offset + weight_at(w, w_half, j));
        dx[g * d + j] += s * (slope - centre - normal * along);
        if (dw_rows) dw_rows[g * d + j] = dy_j * normal;
    }
}

#define GELU_TANH 0
#define GELU_EXACT 1
#define SILU 2

/// An activation; the numbers are those of `Gate` in the host code.
__device__ inline float activation(int kind, float x) {
    if (kind == SILU) return x / (1.0f + expf(-x));
    if (kind == GELU_EXACT) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

__device__ inline float activation_slope(int kind, float x) {
    if (kind == SILU) {
        float s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    if (kind == GELU_EXACT) {
        float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
        return cdf + x * (expf(-0.5f * x * x) * 0.39894228040143268f);
    }
    // Far out tanh is ±1 to the last bit, and x² could overflow beside 1 − t² = 0.
    if (x > 20.0f) return 1.0f;
    if (x < -20.0f) return 0.0f;
    float t = tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) +
           0.5f * x * (1.0f - t * t) * 0.79788456080286536f * (1.0f + 0.134145f * x * x);
}

extern "C" __global__ void activate(int kind, const float* x, float* y, long long n) {
    EACH(i, n) y[i] = activation(kind, x[i]);
}

/// d[r, :] *= act'(x[rows[r], :]).
extern "C" __global__ void activate_backward(int kind, const float* x, const unsigned* rows, float* d, long long n,
                                             long long f) {
    EACH(e, n * f) {
        long long r = e / f, i = rows ? rows[r] : r;
        d[e] *= activation_slope(kind, x[i * f + e % f]);
    }
}

extern "C" __global__ void glu(int kind, const float* gate, const float* up, float* y, long long n) {
    EACH(i, n) y[i] = activation(kind, gate[i]) * up[i];
}

extern "C" __global__ void glu_backward(int kind, const float* gate, const float* up, const unsigned* rows,
                                        float* d_gate, float* d_up, long long n, long long f) {
    EACH(e, n * f) {
        long long r = e / f, i = (rows ? rows[r] : r) * f + e % f;
        float dy = d_up[e];
        d_gate[e] = dy * up[i] * activation_slope(kind, gate[i]);
        d_up[e] = dy * activation(kind, gate[i]);
    }
}

#define GOLDEN 0x9e3779b97f4a7c15ull

/// SplitMix64's finaliser.
__device__ inline unsigned long long mix(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/// The mask of `crates/tensor/src/dropout.rs`: the 64 bits of a row's own ...
__device__ inline unsigned long long mask_row(unsigned long long seed, unsigned long long row) {
    return mix(mix(seed + GOLDEN) ^ (row * GOLDEN));
}

/// ... with which j is mixed to say whether the row keeps element j.
__device__ inline bool mask_keeps(unsigned long long bits, unsigned j, unsigned threshold) {
    unsigned draw = (unsigned)bits + j * (unsigned)(GOLDEN >> 32);
    draw = (draw ^ (draw >> 16)) * 0x21f0aaadu + (unsigned)(bits >> 32);
    draw = (draw ^ (draw >> 15)) * 0xd35a2d97u;
    draw ^= draw >> 15;
    return draw >= threshold;
}

extern "C" __global__ void dropout(const float* x, const unsigned* rows, unsigned long long seed, unsigned threshold,
                                   float keep, float* y, long long n, long long d) {
    EACH(e, n * d) {
        unsigned long long r = e / d, j = e % d, row = rows ? rows[r] : r;
        y[e] = mask_keeps(mask_row(seed, row), (unsigned)j, threshold) ? x[e] * keep : 0.0f;
    }
}

/// One thread turns one pair of elements.
extern "C" __global__ void rope(float* x, const unsigned* positions, const float* table, long long n, long long heads,
                                long long head_dim, long long half_turned, int inverse) {
    EACH(e, n * heads * half_turned) {
        long long i = e % half_turned, h = e / half_turned % heads, r = e / half_turned / heads;
        const float* angles = table + (long long)positions[r] * 2 * half_turned;
        float c = angles[i], s = inverse ? -angles[half_turned + i] : angles[half_turned + i];
        float* at = x + (r * heads + h) * head_dim + i;
        float a = at[0], b = at[half_turned];
        at[0] = a * c - b * s;
        at[half_turned] = b * c + a * s;
    }
}
