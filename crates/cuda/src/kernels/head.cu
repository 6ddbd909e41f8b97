// The head on one chunk of the vocabulary: z `[M, width]` holds the chunk's uncapped logits. A block for each row.

/// Running maximum, Σ exp(z − maximum) and the target's logit.
extern "C" __global__ void head_update(const float* z, long long width, long long start, const unsigned* targets,
                                       float cap, float* top, double* sum, float* hit) {
    long long i = blockIdx.x;
    const float* row = z + i * width;
    float most = -infinity();
    for (long long j = threadIdx.x; j < width; j += blockDim.x) most = fmaxf(most, soften(row[j], cap));
    float old = top[i], now = fmaxf(block_max(most), old);
    float part = 0.0f;
    for (long long j = threadIdx.x; j < width; j += blockDim.x) part += expf(soften(row[j], cap) - now);
    double total = block_sum((double)part);
    if (threadIdx.x == 0) {
        long long target = (long long)targets[i] - start;
        if (target >= 0 && target < width) hit[i] = soften(row[target], cap);
        top[i] = now;
        sum[i] = (old == -infinity() ? 0.0 : sum[i] * (double)expf(old - now)) + total;
    }
}

extern "C" __global__ void head_finish(const float* top, const double* sum, const float* hit, float* logps, float* lse,
                                       long long m) {
    EACH(i, m) {
        double total = (double)top[i] + log(sum[i]);
        lse[i] = (float)total;
        logps[i] = (float)((double)hit[i] - total);
    }
}

/// sum[i] += Σ_j softmax(z)_j².
extern "C" __global__ void head_squares(const float* z, long long width, const float* lse, float cap, double* sum) {
    long long i = blockIdx.x;
    float part = 0.0f;
    for (long long j = threadIdx.x; j < width; j += blockDim.x)
        part += expf(2.0f * (soften(z[i * width + j], cap) - lse[i]));
    double total = block_sum((double)part);
    if (threadIdx.x == 0) sum[i] += total;
}

extern "C" __global__ void logarithm(const double* x, float* y, long long n) {
    EACH(i, n) y[i] = (float)log(x[i]);
}

/// Replaces logits by G = seed·(onehot − softmax)·(the cap's derivative).
extern "C" __global__ void head_gradient(float* z, long long width, long long start, const unsigned* targets,
                                         const float* lse, const float* seeds, float cap, long long m) {
    EACH(e, m * width) {
        long long i = e / width, j = e % width;
        float logit = soften(z[e], cap);
        float hit = (long long)targets[i] == start + j ? 1.0f : 0.0f;
        z[e] = seeds[i] * (hit - expf(logit - lse[i])) * softening(logit, cap);
    }
}

/// sum[i] += Σ_j g_ij·moved_ij.
extern "C" __global__ void row_dots(const float* g, const float* moved, long long width, double* sum) {
    long long i = blockIdx.x;
    double part = 0;
    for (long long j = threadIdx.x; j < width; j += blockDim.x)
        part += (double)g[i * width + j] * (double)moved[i * width + j];
    part = block_sum(part);
    if (threadIdx.x == 0) sum[i] += part;
}
