// Optimizer steps. Factors are computed on the host in f64 and rounded once.

extern "C" __global__ void adamw(float* param, const float* grad, float* m, float* v, float beta1, float rest1,
                                 float beta2, float rest2, float step_size, float root2, float epsilon, float keep,
                                 float grad_scale, long long n) {
    EACH(i, n) {
        float g = grad[i] * grad_scale;
        float first = beta1 * m[i] + rest1 * g, second = beta2 * v[i] + rest2 * g * g;
        m[i] = first;
        v[i] = second;
        param[i] = param[i] * keep - step_size * first / (sqrtf(second) * root2 + epsilon);
    }
}

/// `buffer` is null without momentum.
extern "C" __global__ void sgd(float* param, const float* grad, float* buffer, float momentum, float rate, float decay,
                               float grad_scale, long long n) {
    EACH(i, n) {
        float g = grad_scale * grad[i] + decay * param[i];
        if (buffer) {
            g += momentum * buffer[i];
            buffer[i] = g;
        }
        param[i] -= rate * g;
    }
}

extern "C" __global__ void lion(float* param, const float* grad, float* m, float beta1, float rest1, float beta2,
                                float rest2, float rate, float keep, float grad_scale, long long n) {
    EACH(i, n) {
        float g = grad_scale * grad[i], mixed = beta1 * m[i] + rest1 * g;
        float size = mixed == 0.0f ? 0.0f : rate;
        param[i] = param[i] * keep - copysignf(size, mixed);
        m[i] = beta2 * m[i] + rest2 * g;
    }
}

/// Moving mean of g² + ε over each row, a block for each.
extern "C" __global__ void adafactor_rows(const float* grad, long long cols, float beta2, float rest2, float epsilon,
                                          float grad_scale, float* state) {
    double sum = 0;
    for (long long j = threadIdx.x; j < cols; j += blockDim.x) {
        float g = grad_scale * grad[blockIdx.x * cols + j];
        sum += (double)(g * g) + (double)epsilon;
    }
    float mean = (float)(block_sum(sum) / (double)cols);
    if (threadIdx.x == 0) state[blockIdx.x] = beta2 * state[blockIdx.x] + rest2 * mean;
}

/// The same over each column: 32 columns a block, warp w has rows w, w + 8, ...
extern "C" __global__ void adafactor_columns(const float* grad, long long rows, long long cols, float beta2,
                                             float rest2, float epsilon, float grad_scale, float* state) {
    __shared__ double parts[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    long long j = (long long)blockIdx.x * 32 + lane;
    double sum = 0;
    if (j < cols) {
        for (long long i = warp; i < rows; i += 8) {
            float g = grad_scale * grad[i * cols + j];
            sum += (double)(g * g) + (double)epsilon;
        }
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && j < cols) {
        for (int w = 1; w < 8; w++) sum += parts[w][lane];
        state[j] = beta2 * state[j] + rest2 * (float)(sum / (double)rows);
    }
}

/// Each block's part of Σ x_i, in f64.
extern "C" __global__ void total(const float* x, long long n, double* parts) {
    double sum = 0;
    EACH(i, n) sum += (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// Element e of Adafactor's update. With `cols` 0 the second moment is `rows` itself, element by element.
__device__ inline float adafactor_update(const float* grad, const float* rows, const float* columns, long long cols,
                                         float row_mean, float grad_scale, long long e) {
    float g = grad_scale * grad[e];
    if (cols == 0) return g / sqrtf(rows[e]);
    return g * sqrtf(row_mean / rows[e / cols]) / sqrtf(columns[e % cols]);
}

/// Each block's part of the sum of squared updates.
extern "C" __global__ void adafactor_squares(const float* grad, const float* rows, const float* columns, long long cols,
                                             float row_mean, float grad_scale, long long n, double* parts) {
    double sum = 0;
    EACH(e, n) {
        float u = adafactor_update(grad, rows, columns, cols, row_mean, grad_scale, e);
        sum += (double)u * (double)u;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void adafactor_apply(float* param, const float* grad, const float* rows, const float* columns,
                                           long long cols, float row_mean, float grad_scale, float keep, float rate,
                                           long long n) {
    EACH(e, n) {
        float u = adafactor_update(grad, rows, columns, cols, row_mean, grad_scale, e);
        param[e] = param[e] * keep - rate * u;
    }
}

/// Moving mean of g² + ε, element by element.
extern "C" __global__ void adafactor_elements(const float* grad, float beta2, float rest2, float epsilon,
                                              float grad_scale, float* state, long long n) {
    EACH(i, n) {
        float g = grad_scale * grad[i];
        state[i] = beta2 * state[i] + rest2 * (g * g + epsilon);
    }
}
