//! Matrix products: cuBLASLt where the strides allow it, else an own kernel.
//!
//! cuBLASLt is column-major: a row-major C = A·B is the column-major Cᵀ = Bᵀ·Aᵀ, the same memory with the operands swapped.

use crate::backend::CudaBackend;
use crate::buffer::{CudaBuffer, Memory};
use crate::device::{Arg, Matmul, Operand, Precision};
use crate::launch::{done, float, input, long, output, weight};
use unbraid_tensor::{Gemm, Mat, MatMut};

/// How a `[rows, cols]` operand lies: (whether its columns lie densely instead of its rows, distance between the dense
/// runs), or `None` if neither does.
fn leading(mat: &Mat<'_, CudaBuffer>, rows: usize, cols: usize) -> Option<(bool, usize)> {
    // A dimension of one element is dense whatever its stride says.
    let dense = |stride: usize, len: usize| stride == 1 || len == 1;
    if dense(mat.col_stride, cols) && (rows == 1 || mat.row_stride >= cols) {
        return Some((false, if rows == 1 { cols } else { mat.row_stride }));
    }
    if dense(mat.row_stride, rows) && (cols == 1 || mat.col_stride >= rows) {
        return Some((true, if cols == 1 { rows } else { mat.col_stride }));
    }
    None
}

/// One past the last element of a `[rows, cols]` operand.
fn end(mat: &Mat<'_, CudaBuffer>, rows: usize, cols: usize) -> usize {
    match rows * cols {
        0 => mat.offset,
        _ => mat.offset + (rows - 1) * mat.row_stride + (cols - 1) * mat.col_stride + 1,
    }
}

impl CudaBackend {
    /// The operand's memory in the other format, from its first element on.
    fn converted(&self, mat: &Mat<'_, CudaBuffer>, end: usize) -> Memory {
        let n = end - mat.offset;
        let (kernel, from, to) = match mat.buffer.half {
            true => ("widen", 2, 4),
            false => ("narrow", 4, 2),
        };
        let memory = self.pool.take(n, to);
        let address = mat.buffer.memory.address + (mat.offset * from) as u64;
        let args = [Arg::Address(address), Arg::Address(memory.address), long(n)];
        self.each(kernel, n, &args);
        memory
    }

    /// See [`unbraid_tensor::Backend::gemm`].
    pub(crate) fn multiply(
        &self,
        s: Gemm,
        a: Mat<'_, CudaBuffer>,
        b: Mat<'_, CudaBuffer>,
        mut c: MatMut<'_, CudaBuffer>,
    ) {
        if s.m == 0 || s.n == 0 {
            return;
        }
        assert!(end(&a, s.m, s.k) <= a.buffer.len, "A lies in its buffer");
        assert!(end(&b, s.k, s.n) <= b.buffer.len, "B lies in its buffer");
        let last = c.offset + (s.m - 1) * c.row_stride + s.n;
        assert!(last <= c.buffer.len, "C lies in its buffer");
        if !self.library_product(s, &a, &b, &mut c) {
            self.own_product(s, &a, &b, &mut c);
        }
    }

    /// By cuBLASLt; false if it cannot.
    fn library_product(
        &self,
        s: Gemm,
        a: &Mat<'_, CudaBuffer>,
        b: &Mat<'_, CudaBuffer>,
        c: &mut MatMut<'_, CudaBuffer>,
    ) -> bool {
        if s.k == 0 || (s.m > 1 && c.row_stride < s.n) {
            return false;
        }
        let (Some(a_lies), Some(b_lies)) = (leading(a, s.m, s.k), leading(b, s.k, s.n)) else {
            return false;
        };
        // In bf16 every operand is rounded; otherwise both are f32, unless both are bf16 already and lose nothing.
        let half = self.precision == Precision::Bf16 || (a.buffer.half && b.buffer.half);
        let mut kept = Vec::new(); // conversions live until the product is launched
        let mut operand = |mat: &Mat<'_, CudaBuffer>, end: usize, (by_column, leading)| {
            let address = if mat.buffer.half == half {
                let size = if half { 2 } else { 4 };
                mat.buffer.memory.address + (mat.offset * size) as u64
            } else {
                kept.push(self.converted(mat, end));
                kept[kept.len() - 1].address
            };
            Operand {
                address,
                half,
                transposed: by_column,
                leading,
            }
        };
        let left = operand(b, end(b, s.k, s.n), b_lies);
        let right = operand(a, end(a, s.m, s.k), a_lies);
        let product = Matmul {
            a: left,
            b: right,
            c: c.buffer.write() + (c.offset * 4) as u64,
            c_leading: if s.m == 1 { s.n } else { c.row_stride },
            m: s.n,
            n: s.m,
            k: s.k,
            alpha: s.alpha as f32,
            beta: s.beta as f32,
            tf32: self.precision == Precision::Tf32,
        };
        done(self.pool.device.matmul(&product))
    }

    /// By the kernel that takes any strides.
    pub(crate) fn own_product(
        &self,
        s: Gemm,
        a: &Mat<'_, CudaBuffer>,
        b: &Mat<'_, CudaBuffer>,
        c: &mut MatMut<'_, CudaBuffer>,
    ) {
        let view = |mat: &Mat<'_, CudaBuffer>| {
            let [address, half] = weight(mat.buffer);
            let (offset, rows) = (long(mat.offset), long(mat.row_stride));
            [address, half, offset, rows, long(mat.col_stride)]
        };
        let mut args = [view(a), view(b)].concat();
        args.extend([output(c.buffer), long(c.offset), long(c.row_stride)]);
        args.extend([s.m, s.n, s.k].map(long));
        args.extend([float(s.alpha), float(s.beta)]);
        let grid = [s.n.div_ceil(64), s.m.div_ceil(64), 1];
        self.launch("gemm_any", grid, &args);
    }

    /// C ← A·B + beta·C for dense row-major matrices, A `[m, k]` from `a.1` on, B `[k, n]` from `b.1` on, or its transpose.
    pub(crate) fn dense(
        &self,
        (m, n, k): (usize, usize, usize),
        (a, a_offset): (&CudaBuffer, usize),
        (b, b_offset, b_transposed): (&CudaBuffer, usize, bool),
        beta: f64,
        c: &mut CudaBuffer,
    ) {
        let view = |buffer, offset, row_stride| Mat {
            buffer,
            offset,
            row_stride,
            col_stride: 1,
        };
        let b = match b_transposed {
            true => view(b, b_offset, k).t(),
            false => view(b, b_offset, n),
        };
        let shape = Gemm {
            beta,
            ..Gemm::replace(m, n, k)
        };
        self.multiply(shape, view(a, a_offset, k), b, MatMut::rows(c, 0, n));
    }

    /// Rows of `x` times their coefficients.
    pub(crate) fn scaled_rows(
        &self,
        x: &CudaBuffer,
        c: &CudaBuffer,
        n: usize,
        d: usize,
    ) -> CudaBuffer {
        let mut y = self.floats(n * d);
        let args = [input(x), input(c), output(&mut y), long(n), long(d)];
        self.each("scale_rows", n * d, &args);
        y
    }
}
