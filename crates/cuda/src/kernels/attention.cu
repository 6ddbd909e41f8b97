// Causal attention over a packed forest in tiles of 32 queries by 32 keys; scores of a tile are all that is ever stored.
//
// Online softmax as in FlashAttention (Dao et al. 2022, arXiv 2205.14135). 256 threads a block: thread (tx, ty) has columns
// tx and rows ty, ty + 8, ty + 16, ty + 24 of a tile, so a warp owns whole rows. Heads are cut into chunks of 32 elements;
// CHUNKS bounds their number so that sums stay in registers. Tables of int:
//
//   segments  [6]: first query row, own rows, rows before them on the path, first run, runs, first gradient row
//   runs      [4]: first activation row, first gradient row, rows, path position of the first
//   tiles     [2]: segment, first own row
//   key_tiles [3]: first gradient row, first entry, entries;  entries [2]: segment, run

#define TILE 32

struct Shape {
    int heads, kv_heads, d, window;
    float scale, cap;
    float factor; // on the probabilities that dropout keeps; 0 without dropout
    unsigned threshold;
    unsigned long long seed;
};

typedef float Tile[TILE][TILE + 1];

/// A capped score and its derivative with respect to the product of query and key.
__device__ inline float score(float product, Shape s, float* slope) {
    float x = s.scale * product;
    *slope = s.scale;
    if (s.cap > 0.0f) {
        float t = tanhf(x / s.cap);
        x = s.cap * t;
        *slope = s.scale * (1.0f - t * t);
    }
    return x;
}

/// What dropout does to the probability of a query's head and a key, by their activation rows: 0 or 1/(1 − p).
__device__ inline float kept(Shape s, long long query, int head, long long key) {
    if (s.factor == 0.0f) return 1.0f;
    return mask_keeps(mask_row(s.seed, query * s.heads + head), (unsigned)key, s.threshold) ? s.factor : 0.0f;
}

/// Whether path position p sees path position k.
__device__ inline bool sees(int p, int k, int window) { return k <= p && p - k < window; }

/// Elements c0..c0 + 32 of 32 rows of x that start at `rows` (−1: zeros).
__device__ inline void load_chunk(const float* x, const long long* rows, int c0, int d, Tile tile) {
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    for (int r = ty; r < TILE; r += 8)
        tile[r][tx] = rows[r] >= 0 && c0 + tx < d ? x[rows[r] + c0 + tx] : 0.0f;
}

/// s[r] = ⟨row ty + 8r of a, row tx of b⟩.
__device__ inline void products(const float* a, const long long* a_rows, const float* b, const long long* b_rows, int d,
                                Tile left, Tile right, float* s) {
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    for (int r = 0; r < 4; r++) s[r] = 0.0f;
    for (int c0 = 0; c0 < d; c0 += TILE) {
        __syncthreads(); // the tiles' last use is over, and the row tables are written
        load_chunk(a, a_rows, c0, d, left);
        load_chunk(b, b_rows, c0, d, right);
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < TILE; j++) {
            float x = right[tx][j];
            for (int r = 0; r < 4; r++) s[r] += left[ty + 8 * r][j] * x;
        }
    }
}

/// sums[r][c] += Σ_j p[ty + 8r][j]·x[row j, 32c + tx].
template <int CHUNKS>
__device__ inline void accumulate(Tile p, const float* x, const long long* rows, int d, Tile tile,
                                  float (*sums)[CHUNKS]) {
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        if (c * TILE >= d) break;
        __syncthreads();
        load_chunk(x, rows, c * TILE, d, tile);
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < TILE; j++) {
            float value = tile[j][tx];
            for (int r = 0; r < 4; r++) sums[r][c] += p[ty + 8 * r][j] * value;
        }
    }
}

/// The same with p transposed: sums[r][c] += Σ_i p[i][ty + 8r]·x[row i, 32c + tx].
template <int CHUNKS>
__device__ inline void accumulate_transposed(Tile p, const float* x, const long long* rows, int d, Tile tile,
                                             float (*sums)[CHUNKS]) {
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        if (c * TILE >= d) break;
        __syncthreads();
        load_chunk(x, rows, c * TILE, d, tile);
        __syncthreads();
#pragma unroll 4
        for (int i = 0; i < TILE; i++) {
            float value = tile[i][tx];
            for (int r = 0; r < 4; r++) sums[r][c] += p[i][ty + 8 * r] * value;
        }
    }
}

/// What a block of queries knows of itself: tile blockIdx.x, head blockIdx.y.
struct Queries {
    const int* segment;
    int first, count, position, low, high, head, kv;
};

__device__ inline Queries queries_of(const int* segments, const int* tiles, Shape s) {
    Queries q;
    q.segment = segments + 6 * tiles[2 * blockIdx.x];
    q.first = tiles[2 * blockIdx.x + 1];
    q.count = min(TILE, q.segment[1] - q.first);
    q.position = q.segment[2] + q.first; // of the first query on its path
    q.low = max(0, q.position - (s.window - 1));
    q.high = q.position + q.count - 1;
    q.head = blockIdx.y;
    q.kv = q.head * s.kv_heads / s.heads;
    return q;
}

template <int CHUNKS>
__device__ inline void forward(const float* q, const float* k, const float* v, const int* segments, const int* runs,
                               const int* tiles, Shape s, float* out, float* lse) {
    __shared__ Tile left, right, p;
    __shared__ long long q_rows[TILE], k_rows[TILE];
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    Queries own = queries_of(segments, tiles, s);
    long long first_row = own.segment[0] + own.first;
    if (threadIdx.x < TILE)
        q_rows[tx] = tx < own.count ? ((first_row + tx) * s.heads + own.head) * s.d : -1;
    float sums[4][CHUNKS] = {}, top[4], total[4] = {};
    for (int r = 0; r < 4; r++) top[r] = -infinity();
    for (int n = 0; n < own.segment[4]; n++) {
        const int* run = runs + 4 * (own.segment[3] + n);
        int end = min(run[2], own.high + 1 - run[3]);
        for (int j0 = max(0, own.low - run[3]); j0 < end; j0 += TILE) {
            int keys = min(TILE, end - j0);
            __syncthreads();
            if (threadIdx.x < TILE)
                k_rows[tx] = tx < keys ? ((long long)(run[0] + j0 + tx) * s.kv_heads + own.kv) * s.d : -1;
            float dots[4], slope;
            products(q, q_rows, k, k_rows, s.d, left, right, dots);
            for (int r = 0; r < 4; r++) {
                int row = ty + 8 * r;
                bool seen = row < own.count && tx < keys && sees(own.position + row, run[3] + j0 + tx, s.window);
                float x = seen ? score(dots[r], s, &slope) : -infinity();
                float now = fmaxf(top[r], warp_max(x));
                float e = seen ? expf(x - now) : 0.0f;
                float change = top[r] == -infinity() ? 0.0f : expf(top[r] - now);
                total[r] = total[r] * change + warp_sum(e);
                top[r] = now;
                p[row][tx] = seen ? e * kept(s, first_row + row, own.head, run[0] + j0 + tx) : 0.0f;
                for (int c = 0; c < CHUNKS; c++) sums[r][c] *= change;
            }
            accumulate<CHUNKS>(p, v, k_rows, s.d, left, sums);
        }
    }
    for (int r = 0; r < 4; r++) {
        int row = ty + 8 * r;
        if (row >= own.count) continue;
        for (int c = 0; c < CHUNKS; c++)
            if (c * TILE + tx < s.d) out[q_rows[row] + c * TILE + tx] = sums[r][c] / total[r];
        if (tx == 0) lse[(first_row + row) * s.heads + own.head] = top[r] + logf(total[r]);
    }
}

/// Adds to dq, and writes delta_i = Σ_j p_ij·(d_out_i·v_j) of every gradient row and head: two sweeps over the keys, since
/// the forward's output is not kept.
template <int CHUNKS>
__device__ inline void backward_queries(const float* q, const float* k, const float* v, const float* lse,
                                        const float* d_out, const int* segments, const int* runs, const int* tiles,
                                        Shape s, float* delta, float* dq) {
    __shared__ Tile left, right, ds;
    __shared__ long long q_rows[TILE], g_rows[TILE], k_rows[TILE];
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    Queries own = queries_of(segments, tiles, s);
    long long first_row = own.segment[0] + own.first, first_grad = own.segment[5] + own.first;
    if (threadIdx.x < TILE) {
        q_rows[tx] = tx < own.count ? ((first_row + tx) * s.heads + own.head) * s.d : -1;
        g_rows[tx] = tx < own.count ? ((first_grad + tx) * s.heads + own.head) * s.d : -1;
    }
    float sums[4][CHUNKS] = {}, mean[4] = {}, logs[4];
    for (int r = 0; r < 4; r++)
        logs[r] = ty + 8 * r < own.count ? lse[(first_row + ty + 8 * r) * s.heads + own.head] : 0.0f;
    for (int sweep = 0; sweep < 2; sweep++) {
        for (int n = 0; n < own.segment[4]; n++) {
            const int* run = runs + 4 * (own.segment[3] + n);
            int end = min(run[2], own.high + 1 - run[3]);
            for (int j0 = max(0, own.low - run[3]); j0 < end; j0 += TILE) {
                int keys = min(TILE, end - j0);
                __syncthreads();
                if (threadIdx.x < TILE)
                    k_rows[tx] = tx < keys ? ((long long)(run[0] + j0 + tx) * s.kv_heads + own.kv) * s.d : -1;
                float dots[4], dp[4];
                products(q, q_rows, k, k_rows, s.d, left, right, dots);
                products(d_out, g_rows, v, k_rows, s.d, left, right, dp);
                for (int r = 0; r < 4; r++) {
                    int row = ty + 8 * r;
                    bool seen =
                        row < own.count && tx < keys && sees(own.position + row, run[3] + j0 + tx, s.window);
                    float slope, x = score(dots[r], s, &slope);
                    float p = seen ? expf(x - logs[r]) : 0.0f;
                    if (seen) dp[r] *= kept(s, first_row + row, own.head, run[0] + j0 + tx);
                    if (sweep == 0) mean[r] += seen ? p * dp[r] : 0.0f;
                    ds[row][tx] = seen ? slope * p * (dp[r] - mean[r]) : 0.0f;
                }
                if (sweep == 1) accumulate<CHUNKS>(ds, k, k_rows, s.d, left, sums);
            }
        }
        if (sweep == 0)
            for (int r = 0; r < 4; r++) mean[r] = warp_sum(mean[r]);
    }
    for (int r = 0; r < 4; r++) {
        int row = ty + 8 * r;
        if (row >= own.count) continue;
        for (int c = 0; c < CHUNKS; c++)
            if (c * TILE + tx < s.d) dq[g_rows[row] + c * TILE + tx] += sums[r][c];
        if (tx == 0) delta[(first_grad + row) * s.heads + own.head] = mean[r];
    }
}

/// Adds to dk and dv. Block (key tile, key head): 32 gradient rows of keys, and every run of keys that lands on them.
template <int CHUNKS>
__device__ inline void backward_keys(const float* q, const float* k, const float* v, const float* lse,
                                     const float* delta, const float* d_out, const int* segments, const int* runs,
                                     const int* key_tiles, const int* entries, Shape s, float* dk, float* dv) {
    __shared__ Tile left, right, p, ds;
    __shared__ long long q_rows[TILE], g_rows[TILE], k_rows[TILE];
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32, kv = blockIdx.y, group = s.heads / s.kv_heads;
    int first_grad = key_tiles[3 * blockIdx.x];
    float dk_sums[4][CHUNKS] = {}, dv_sums[4][CHUNKS] = {};
    for (int n = 0; n < key_tiles[3 * blockIdx.x + 2]; n++) {
        const int* entry = entries + 2 * (key_tiles[3 * blockIdx.x + 1] + n);
        const int *segment = segments + 6 * entry[0], *run = runs + 4 * entry[1];
        // Lane j of the tile is key `base + j` of the run, if that lies in it.
        int base = first_grad - run[1];
        int low = max(base, 0), high = min(base + TILE, run[2]);
        bool key = base + tx >= low && base + tx < high;
        long long last = (long long)run[3] + high - 1 + s.window - 1 - segment[2];
        int q_begin = max(0, run[3] + low - segment[2]);
        int q_end = last < segment[1] - 1 ? (int)last + 1 : segment[1];
        for (int h = kv * group; h < (kv + 1) * group; h++) {
            for (int i0 = q_begin; i0 < q_end; i0 += TILE) {
                int count = min(TILE, q_end - i0);
                __syncthreads();
                if (threadIdx.x < TILE) {
                    k_rows[tx] = key ? ((long long)(run[0] + base + tx) * s.kv_heads + kv) * s.d : -1;
                    q_rows[tx] = tx < count ? ((long long)(segment[0] + i0 + tx) * s.heads + h) * s.d : -1;
                    g_rows[tx] = tx < count ? ((long long)(segment[5] + i0 + tx) * s.heads + h) * s.d : -1;
                }
                float dots[4], dp[4];
                products(q, q_rows, k, k_rows, s.d, left, right, dots);
                products(d_out, g_rows, v, k_rows, s.d, left, right, dp);
                for (int r = 0; r < 4; r++) {
                    int row = ty + 8 * r, i = i0 + row;
                    bool seen = row < count && key && sees(segment[2] + i, run[3] + base + tx, s.window);
                    float slope, x = score(dots[r], s, &slope), weight = 0.0f, change = 0.0f;
                    if (seen) {
                        float keep = kept(s, segment[0] + i, h, run[0] + base + tx);
                        weight = expf(x - lse[(long long)(segment[0] + i) * s.heads + h]);
                        change = slope * weight * (keep * dp[r] - delta[(long long)(segment[5] + i) * s.heads + h]);
                        weight *= keep;
                    }
                    p[row][tx] = weight;
                    ds[row][tx] = change;
                }
                accumulate_transposed<CHUNKS>(p, d_out, g_rows, s.d, left, dv_sums);
                accumulate_transposed<CHUNKS>(ds, q, q_rows, s.d, right, dk_sums);
            }
        }
    }
    // A lane that no run reaches has summed zeros.
    for (int r = 0; r < 4; r++) {
        for (int c = 0; c < CHUNKS; c++) {
            float* sum_k = &dk_sums[r][c];
            if (c * TILE + tx >= s.d || (*sum_k == 0.0f && dv_sums[r][c] == 0.0f)) continue;
            long long at = ((long long)(first_grad + ty + 8 * r) * s.kv_heads + kv) * s.d + c * TILE + tx;
            dk[at] += *sum_k;
            dv[at] += dv_sums[r][c];
        }
    }
}

#define ATTENTION_KERNELS(CHUNKS)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) attention_forward_##CHUNKS(                                  \
        const float* q, const float* k, const float* v, const int* segments, const int* runs, const int* tiles,    \
        int heads, int kv_heads, int d, int window, float scale, float cap, float factor, unsigned threshold,      \
        unsigned long long seed, float* out, float* lse) {                                                         \
        Shape s = {heads, kv_heads, d, window, scale, cap, factor, threshold, seed};                               \
        forward<CHUNKS>(q, k, v, segments, runs, tiles, s, out, lse);                                              \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) attention_queries_##CHUNKS(                                  \
        const float* q, const float* k, const float* v, const float* lse, const float* d_out, const int* segments, \
        const int* runs, const int* tiles, int heads, int kv_heads, int d, int window, float scale, float cap,     \
        float factor, unsigned threshold, unsigned long long seed, float* delta, float* dq) {                      \
        Shape s = {heads, kv_heads, d, window, scale, cap, factor, threshold, seed};                               \
        backward_queries<CHUNKS>(q, k, v, lse, d_out, segments, runs, tiles, s, delta, dq);                        \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) attention_keys_##CHUNKS(                                     \
        const float* q, const float* k, const float* v, const float* lse, const float* delta, const float* d_out,  \
        const int* segments, const int* runs, const int* key_tiles, const int* entries, int heads, int kv_heads,   \
        int d, int window, float scale, float cap, float factor, unsigned threshold, unsigned long long seed,      \
        float* dk, float* dv) {                                                                                    \
        Shape s = {heads, kv_heads, d, window, scale, cap, factor, threshold, seed};                               \
        backward_keys<CHUNKS>(q, k, v, lse, delta, d_out, segments, runs, key_tiles, entries, s, dk, dv);          \
    }

ATTENTION_KERNELS(2)
ATTENTION_KERNELS(4)
ATTENTION_KERNELS(8)
ATTENTION_KERNELS(16)
