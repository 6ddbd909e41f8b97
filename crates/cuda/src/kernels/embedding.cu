// Look-ups, their transposes, and inner products of look-up gradients.

/// out[r, :] = table[rows[r], :], or += with `add`.
extern "C" __global__ void gather(const void* table, int half, const unsigned* rows, float* out, long long n,
                                  long long d, int add) {
    EACH(e, n * d) {
        float value = weight_at(table, half, (long long)rows[e / d] * d + e % d);
        out[e] = add ? out[e] + value : value;
    }
}

/// out[targets[t], :] += Σ_r c[r]·x[r, :] over r = order[starts[t]..starts[t + 1]], in that order. Block (t, columns).
extern "C" __global__ void scatter_add(const float* x, const unsigned* order, const unsigned* starts,
                                       const unsigned* targets, const float* coefficients, float* out, long long d) {
    long long j = (long long)blockIdx.y * blockDim.x + threadIdx.x;
    if (j >= d) return;
    float sum = 0.0f;
    for (unsigned e = starts[blockIdx.x]; e < starts[blockIdx.x + 1]; e++) {
        unsigned r = order[e];
        float c = coefficients ? coefficients[r] : 1.0f;
        sum += c * x[(long long)r * d + j];
    }
    out[(long long)targets[blockIdx.x] * d + j] += sum;
}

/// out[t] = ⟨Σ_{r in p's rows of group t} g_r, Σ_{r in q's} g_r⟩ in f64. Groups: rows of `order` from starts[2t] to
/// starts[2t + 1] are p's, from there to starts[2t + 2] q's.
extern "C" __global__ void lookup_inner(const float* g, const unsigned* order, const unsigned* starts, long long d,
                                        double* out) {
    unsigned begin = starts[2 * blockIdx.x], middle = starts[2 * blockIdx.x + 1], end = starts[2 * blockIdx.x + 2];
    double sum = 0;
    for (long long j = threadIdx.x; j < d; j += blockDim.x) {
        double p = 0, q = 0;
        for (unsigned e = begin; e < middle; e++) p += g[(long long)order[e] * d + j];
        for (unsigned e = middle; e < end; e++) q += g[(long long)order[e] * d + j];
        sum += p * q;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

/// Each block's part of Σ_{s, t} seed_s·(1(y_s = id_t) − exp(z_st − lse_s))·z'_st·dots_st, rows s from `first_s`, columns t
/// from `first_t`; z `[rows, cols]` holds uncapped logits.
extern "C" __global__ void tied_inner(const float* z, const float* dots, const float* seeds, const float* lse,
                                      const unsigned* targets, const unsigned* ids, long long first_s,
                                      long long first_t, long long rows, long long cols, float cap, double* parts) {
    double sum = 0;
    EACH(e, rows * cols) {
        long long s = first_s + e / cols, t = first_t + e % cols;
        float logit = soften(z[e], cap);
        float hit = targets[s] == ids[t] ? 1.0f : 0.0f;
        float output = seeds[s] * (hit - expf(logit - lse[s])) * softening(logit, cap);
        sum += (double)output * (double)dots[e];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
