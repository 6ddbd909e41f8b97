//! Bases that an adapter's start changed.
//!
//! Some ways to initialise an adapter move a part of the weight into it: W = W_res + s·B₀A₀. PEFT stores only the trained A and
//! B, and makes W_res again from W whenever it loads the adapter. So does this:
//! - PiSSA (Meng et al. 2024, arXiv 2404.02948): B₀A₀ is W's best approximation of rank r, so W_res = W − Σ_{i≤r} σᵢuᵢvᵢᵀ.
//! - OLoRA (Büyükakyüz 2024, arXiv 2406.01775): from W = QR, B₀ = Q[:, :r], A₀ = R[:r], W_res = W − s·B₀A₀.
//!
//! The others leave the base as it is when PEFT loads them (also LoRA-GA, whose gradients are gone by then), or are refused:
//! `pissa_niter_N` draws its decomposition at random, so that PEFT gets another base each time; CorDA and LoftQ need what the
//! adapter's file does not hold.

use super::refused;
use crate::error::ModelError;
use nalgebra::DMatrix;
use serde_json::Value;

/// What an adapter's start did to the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialBase {
    /// Nothing.
    #[default]
    Kept,
    /// PiSSA: the best approximation of the adapter's rank was taken out.
    Pissa,
    /// OLoRA: the first columns of a QR decomposition were taken out.
    Olora,
}

impl InitialBase {
    /// What `init_lora_weights` says; the error tells why it is refused.
    pub(super) fn read(value: Option<&Value>) -> Result<Self, String> {
        let name = match value {
            None | Some(Value::Null | Value::Bool(_)) => return Ok(Self::Kept),
            Some(Value::String(name)) => name.as_str(),
            Some(_) => return Err("expected true, false or a name".into()),
        };
        match (name, name.to_ascii_lowercase().as_str()) {
            (_, "gaussian" | "mica") | ("eva" | "orthogonal" | "lora_ga", _) => Ok(Self::Kept),
            ("pissa", _) => Ok(Self::Pissa),
            (_, "olora") => Ok(Self::Olora),
            (niter, _) if niter.starts_with("pissa_niter_") => Err(
                "its base is drawn at random whenever it is loaded, in PEFT too\n\
                 hint: save it with path_initial_model_for_weight_conversion, which makes it a plain adapter"
                    .into(),
            ),
            (name, _) if name.starts_with("corda") || name == "loftq" => Err(
                "its base was changed by what the adapter does not hold\n\
                 hint: save it with path_initial_model_for_weight_conversion, which makes it a plain adapter"
                    .into(),
            ),
            _ => Err("not supported: no such initialisation is known".into()),
        }
    }

    /// The base that an adapter of this rank and factor was trained on, from a weight `[d_out, d_in]`; `None` where that is
    /// the weight itself.
    pub(super) fn residual(
        self,
        weight: &[f32],
        [d_out, d_in]: [usize; 2],
        rank: usize,
        scale: f64,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let w = || DMatrix::from_row_iterator(d_out, d_in, weight.iter().map(|&x| f64::from(x)));
        let taken = match self {
            Self::Kept => return Ok(None),
            Self::Pissa => best_of_rank(&w(), rank)?,
            Self::Olora => first_columns(&w(), rank) * scale,
        };
        let residual = (0..d_out * d_in).map(|i| {
            let (row, column) = (i / d_in, i % d_in);
            (f64::from(weight[i]) - taken[(row, column)]) as f32
        });
        Ok(Some(residual.collect()))
    }
}

/// Q[:, :r]·R[:r] of W = QR: W projected on the space of its first r columns.
fn first_columns(w: &DMatrix<f64>, rank: usize) -> DMatrix<f64> {
    let rank = rank.min(w.nrows()).min(w.ncols());
    let q = w.columns(0, rank).into_owned().qr().q();
    &q * (q.transpose() * w)
}

/// Below this size a matrix is decomposed as a whole.
const SMALL: usize = 128;

/// Σ_{i≤r} σᵢuᵢvᵢᵀ, the best approximation of rank r.
///
/// Of large matrices it comes from a block Krylov space (Musco and Musco 2015, arXiv 1504.05477), widened until the
/// singular values stand still: a whole decomposition takes hours where this takes seconds.
fn best_of_rank(w: &DMatrix<f64>, rank: usize) -> Result<DMatrix<f64>, ModelError> {
    let small = w.nrows().min(w.ncols());
    if small <= SMALL || 4 * rank >= small {
        return top(w.clone(), rank).map(|(u, s, vt)| u * DMatrix::from_diagonal(&s) * vt);
    }
    let block = rank + 8;
    // Any start that is no special direction of W will do; this one is the same each time.
    let start = DMatrix::from_fn(w.ncols(), block, |i, j| {
        let x = ((i * block + j + 1) as f64 * 12.9898).sin() * 43_758.545_3;
        x - x.floor() - 0.5
    });
    let mut space = (w * start).qr().q();
    let mut newest = space.clone();
    let mut before: Option<nalgebra::DVector<f64>> = None;
    loop {
        let (u, s, vt) = top(space.transpose() * w, rank)?;
        let settled = before.is_some_and(|old| (&old - &s).amax() <= 1e-13 * s.amax());
        if settled || space.ncols() + block > small {
            return Ok(&space * u * DMatrix::from_diagonal(&s) * vt);
        }
        before = Some(s);
        let mut next = w * (w.transpose() * &newest);
        for _ in 0..2 {
            // Twice is enough (Parlett).
            next -= &space * (space.transpose() * &next);
        }
        newest = next.qr().q();
        let columns = space.ncols();
        space = space.resize_horizontally(columns + newest.ncols(), 0.0);
        space
            .columns_mut(columns, newest.ncols())
            .copy_from(&newest);
    }
}

type Svd = (DMatrix<f64>, nalgebra::DVector<f64>, DMatrix<f64>);

/// The first `rank` singular vectors and values, largest first.
fn top(m: DMatrix<f64>, rank: usize) -> Result<Svd, ModelError> {
    let rank = rank.min(m.nrows()).min(m.ncols());
    let svd = m.try_svd(true, true, f64::EPSILON, 0);
    let found = svd.and_then(|svd| Some((svd.u?, svd.singular_values, svd.v_t?)));
    let (u, s, vt) =
        found.ok_or_else(|| refused("PiSSA: a weight could not be decomposed".into()))?;
    Ok((
        u.columns(0, rank).into_owned(),
        s.rows(0, rank).into_owned(),
        vt.rows(0, rank).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> DMatrix<f64> {
        DMatrix::from_fn(rows, columns, |i, j| {
            ((i * 31 + j * 17) as f64 * 0.7).sin() + ((i * j) as f64).cos()
        })
    }

    #[test]
    fn a_large_matrix_gives_what_its_whole_decomposition_gives() {
        let w = matrix(150, 190);
        let (u, s, vt) = top(w.clone(), 3).unwrap();
        let whole = u * DMatrix::from_diagonal(&s) * vt;
        let difference = (best_of_rank(&w, 3).unwrap() - whole).amax();
        assert!(difference < 1e-9, "{difference:e}");
    }

    /// diag(3, 2, 1): what is taken out of rank 1 is the 3.
    #[test]
    fn of_a_diagonal_matrix_the_largest_entry_goes() {
        let w = [1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 2.0];
        let residual = InitialBase::Pissa.residual(&w, [3, 3], 1, 2.0).unwrap();
        let wanted = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0];
        for (got, want) in residual.unwrap().iter().zip(wanted) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    /// Of [[3, 5], [4, 5]] the first column is 5·(0.6, 0.8); the second's part along it is 7.
    #[test]
    fn olora_takes_the_projection_on_the_first_columns_times_the_factor() {
        let w = [3.0, 5.0, 4.0, 5.0];
        let residual = InitialBase::Olora.residual(&w, [2, 2], 1, 0.5).unwrap();
        let wanted = [1.5, 5.0 - 2.1, 2.0, 5.0 - 2.8];
        for (got, want) in residual.unwrap().iter().zip(wanted) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn names_are_known_or_refused_with_the_reason() {
        let read = |text: &str| InitialBase::read(Some(&Value::from(text)));
        assert_eq!(read("pissa"), Ok(InitialBase::Pissa));
        assert_eq!(read("OLoRA"), Ok(InitialBase::Olora));
        assert_eq!(read("lora_ga"), Ok(InitialBase::Kept));
        assert_eq!(InitialBase::read(None), Ok(InitialBase::Kept));
        assert!(read("pissa_niter_16").unwrap_err().contains("random"));
        assert!(read("loftq").unwrap_err().contains("does not hold"));
        assert!(read("something").is_err());
    }
}
