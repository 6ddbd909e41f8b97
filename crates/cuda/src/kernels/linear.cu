// Copies, conversions, vector operations, sums, and a matrix product for what cuBLASLt does not take.

extern "C" __global__ void copy_2d(const float* src, long long src_offset, long long src_stride, float* dst,
                                   long long dst_offset, long long dst_stride, long long rows, long long cols) {
    EACH(e, rows * cols) {
        long long i = e / cols, j = e % cols;
        dst[dst_offset + i * dst_stride + j] = src[src_offset + i * src_stride + j];
    }
}

extern "C" __global__ void narrow(const float* x, bf16* y, long long n) {
    EACH(i, n) y[i] = round_bf16(x[i]);
}

extern "C" __global__ void widen(const bf16* x, float* y, long long n) {
    EACH(i, n) y[i] = widen_bf16(x[i]);
}

extern "C" __global__ void add_bias(const void* bias, int half, float* x, long long n, long long d) {
    EACH(e, n * d) x[e] += weight_at(bias, half, e % d);
}

extern "C" __global__ void axpy(float alpha, const float* x, float* y, long long n) {
    EACH(i, n) y[i] += alpha * x[i];
}

extern "C" __global__ void scale(float alpha, float* x, long long n) {
    EACH(i, n) x[i] *= alpha;
}

/// y[r, :] = c[r]·x[r, :].
extern "C" __global__ void scale_rows(const float* x, const float* c, float* y, long long n, long long d) {
    EACH(e, n * d) y[e] = c[e / d] * x[e];
}

/// Each block's part of Σ x_i y_i, in f64.
extern "C" __global__ void dot(const float* x, long long x_offset, const float* y, long long y_offset, long long n,
                               double* parts) {
    double sum = 0;
    EACH(i, n) sum += (double)x[x_offset + i] * (double)y[y_offset + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// Each block's parts of Σ x², Σ y², Σ xy, in f64; `total` += cx·x + cy·y unless it is null.
extern "C" __global__ void gram_and_add(const float* x, const float* y, float cx, float cy, float* total, long long n,
                                        double* parts) {
    double xx = 0, yy = 0, xy = 0;
    EACH(i, n) {
        double a = x[i], b = y[i];
        xx += a * a;
        yy += b * b;
        xy += a * b;
        if (total) total[i] += cx * x[i] + cy * y[i];
    }
    xx = block_sum(xx);
    yy = block_sum(yy);
    xy = block_sum(xy);
    if (threadIdx.x == 0) {
        parts[3 * blockIdx.x] = xx;
        parts[3 * blockIdx.x + 1] = yy;
        parts[3 * blockIdx.x + 2] = xy;
    }
}

/// out[j] += alpha·Σ_i x[first + i, j]. A block of 8 warps has 32 columns; warp w sums rows w, w + 8, ...
extern "C" __global__ void column_sum(float alpha, const float* x, long long first, long long rows, long long d,
                                      float* out) {
    __shared__ float parts[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long j = (long long)blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (j < d) {
        for (long long i = warp; i < rows; i += 8) sum += x[(first + i) * d + j];
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && j < d) {
        for (int w = 1; w < 8; w++) sum += parts[w][lane];
        out[j] += alpha * sum;
    }
}

#define GEMM_TILE 64
#define GEMM_DEPTH 16

/// C = alpha·A·B + beta·C for any strides, f32 or bf16 operands, f32 sums. A block of 256 threads makes a tile of 64 × 64,
/// each thread 4 × 4 of it. beta = 0 does not read C.
extern "C" __global__ void gemm_any(const void* a, int a_half, long long a_offset, long long a_rows, long long a_cols,
                                    const void* b, int b_half, long long b_offset, long long b_rows, long long b_cols,
                                    float* c, long long c_offset, long long c_rows, long long m, long long n,
                                    long long k, float alpha, float beta) {
    __shared__ float left[GEMM_DEPTH][GEMM_TILE + 1], right[GEMM_DEPTH][GEMM_TILE + 1];
    long long i0 = (long long)blockIdx.y * GEMM_TILE, j0 = (long long)blockIdx.x * GEMM_TILE;
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sums[4][4] = {};
    for (long long l0 = 0; l0 < k; l0 += GEMM_DEPTH) {
        for (int e = threadIdx.x; e < GEMM_TILE * GEMM_DEPTH; e += 256) {
            // Neighbouring threads read along the dimension in which the operand lies densely.
            int deep = a_cols == 1 ? e % GEMM_DEPTH : e / GEMM_TILE;
            int wide = a_cols == 1 ? e / GEMM_DEPTH : e % GEMM_TILE;
            long long i = i0 + wide, l = l0 + deep;
            left[deep][wide] = i < m && l < k ? weight_at(a, a_half, a_offset + i * a_rows + l * a_cols) : 0.0f;
            deep = b_cols == 1 ? e / GEMM_TILE : e % GEMM_DEPTH;
            wide = b_cols == 1 ? e % GEMM_TILE : e / GEMM_DEPTH;
            long long j = j0 + wide;
            l = l0 + deep;
            right[deep][wide] = j < n && l < k ? weight_at(b, b_half, b_offset + l * b_rows + j * b_cols) : 0.0f;
        }
        __syncthreads();
        for (int l = 0; l < GEMM_DEPTH; l++) {
            for (int r = 0; r < 4; r++) {
                float x = left[l][ty + 16 * r];
                for (int s = 0; s < 4; s++) sums[r][s] += x * right[l][tx + 16 * s];
            }
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; r++) {
        for (int s = 0; s < 4; s++) {
            long long i = i0 + ty + 16 * r, j = j0 + tx + 16 * s;
            if (i >= m || j >= n) continue;
            float* to = c + c_offset + i * c_rows + j;
            *to = beta == 0.0f ? alpha * sums[r][s] : alpha * sums[r][s] + beta * *to;
        }
    }
}

/// One probe's row of a Gram matrix from row products: block q writes
/// out[q] = Σ_{i<rows, j in probe q} k[acts[first + i], acts[j]]·products[i, j − first], where probe q has the packed rows
/// starts[q]..starts[q + 1] and acts names each packed row's activation row, counted from K's first.
extern "C" __global__ void ghost_row(const float* k, long long width, const float* products, long long first,
                                     long long rows, long long total, const unsigned* acts, const unsigned* starts,
                                     double* out) {
    long long begin = starts[blockIdx.x], count = starts[blockIdx.x + 1] - begin;
    double sum = 0;
    for (long long e = threadIdx.x; e < rows * count; e += blockDim.x) {
        long long i = e / count, j = begin + e % count;
        sum += (double)k[(long long)acts[first + i] * width + acts[j]] *
               (double)products[i * total + (j - first)];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

/// Adds ⟨x_p, x_q⟩ of rows of x `[n, size]` to parts[p, q, split]: block (split, q, p), nothing below the diagonal.
extern "C" __global__ void pair_dots(const float* x, long long size, double* parts) {
    long long p = blockIdx.z, q = blockIdx.y;
    if (q < p) return;
    double sum = 0;
    EACH(i, size) sum += (double)x[p * size + i] * (double)x[q * size + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[(p * gridDim.y + q) * gridDim.x + blockIdx.x] += sum;
}
