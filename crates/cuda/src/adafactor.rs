//! Adafactor's sweeps: moments, the mean square of the update, the update.

use crate::backend::CudaBackend;
use crate::buffer::CudaBuffer;
use crate::device::Arg;
use crate::launch::{float, input, long, output};
use unbraid_tensor::Adafactor;

/// The second moment as the update's kernels read it.
struct Moment {
    rows: Arg,
    columns: Arg,
    /// 0 where `rows` is the whole moment.
    cols: usize,
    row_mean: f64,
}

impl CudaBackend {
    /// See [`unbraid_tensor::Backend::adafactor`].
    pub(crate) fn factored(
        &self,
        s: &Adafactor,
        (rows, cols): (usize, usize),
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        [row_state, col_state]: [&mut CudaBuffer; 2],
    ) {
        if rows * cols == 0 {
            return;
        }
        assert!(param.len == rows * cols && grad.len == rows * cols);
        assert!(row_state.len >= rows && col_state.len >= cols);
        let (beta2, sizes) = (s.beta2(), [long(rows), long(cols)]);
        let decay = [beta2, 1.0 - beta2, s.epsilon, s.grad_scale].map(float);
        let (by_row, by_column) = (output(row_state), output(col_state));
        let args = [&[input(grad), sizes[1]], &decay[..], &[by_row]].concat();
        self.launch("adafactor_rows", [rows, 1, 1], &args);
        let args = [&[input(grad)], &sizes[..], &decay, &[by_column]].concat();
        self.launch("adafactor_columns", [cols.div_ceil(32), 1, 1], &args);
        let [total] = self.sums("total", rows, &[by_row, long(rows)]);
        let moment = Moment {
            rows: by_row,
            columns: by_column,
            cols,
            row_mean: total / rows as f64,
        };
        self.update(s, param, grad, &moment);
    }

    /// See [`unbraid_tensor::Backend::adafactor_vector`].
    pub(crate) fn unfactored(
        &self,
        s: &Adafactor,
        param: &mut CudaBuffer,
        grad: &CudaBuffer,
        state: &mut CudaBuffer,
    ) {
        let (n, beta2) = (param.len, s.beta2());
        if n == 0 {
            return;
        }
        assert!(grad.len == n && state.len == n);
        let decay = [beta2, 1.0 - beta2, s.epsilon, s.grad_scale].map(float);
        let args = [&[input(grad)], &decay[..], &[output(state), long(n)]].concat();
        self.each("adafactor_elements", n, &args);
        let moment = Moment {
            rows: output(state),
            columns: Arg::Address(0),
            cols: 0,
            row_mean: 1.0,
        };
        self.update(s, param, grad, &moment);
    }

    /// Decay, then the update with its root mean square clipped.
    fn update(&self, s: &Adafactor, param: &mut CudaBuffer, grad: &CudaBuffer, moment: &Moment) {
        let n = param.len;
        let mut args = vec![input(grad), moment.rows, moment.columns, long(moment.cols)];
        args.extend([moment.row_mean, s.grad_scale].map(float));
        let squares = [&args[..], &[long(n)]].concat();
        let [squares] = self.sums("adafactor_squares", n, &squares);
        let keep = 1.0 - s.learning_rate * s.weight_decay;
        args.insert(0, output(param));
        args.extend([keep, s.rate(squares / n as f64)].map(float));
        args.push(long(n));
        self.each("adafactor_apply", n, &args);
    }
}
