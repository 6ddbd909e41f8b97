//! The table of rotary angles, shared by the blocks of a model and grown on demand.
//!
//! Which frequencies there are is `config/rope.rs`; how rows turn is `Backend::rope`.

use std::sync::{Arc, Mutex};
use unbraid_tensor::Backend;

/// cos and sin of every position's angles.
pub(crate) struct RopeTable<B: Backend> {
    frequencies: Vec<f64>,
    table: Mutex<(usize, Option<Arc<B::Buffer>>)>,
}

/// The table at one moment, `[positions, dim]`, cos then sin.
pub(crate) struct Rope<B: Backend> {
    table: Arc<B::Buffer>,
    dim: usize,
}

impl<B: Backend> RopeTable<B> {
    /// A table for these frequencies, radians per position.
    pub(crate) fn new(frequencies: Vec<f64>) -> Self {
        RopeTable {
            frequencies,
            table: Mutex::new((0, None)),
        }
    }

    /// A table of at least `context` positions.
    pub(crate) fn get(&self, b: &B, context: usize) -> Rope<B> {
        let dim = 2 * self.frequencies.len();
        let mut held = self.table.lock().expect("no panic while the table is held");
        if let (positions, Some(table)) = &*held
            && *positions >= context
        {
            let table = Arc::clone(table);
            return Rope { table, dim };
        }
        let positions = context.next_power_of_two().max(64);
        let mut data = Vec::with_capacity(positions * dim);
        for p in 0..positions {
            let angle = |f: &f64| p as f64 * f;
            data.extend(self.frequencies.iter().map(|f| angle(f).cos()));
            data.extend(self.frequencies.iter().map(|f| angle(f).sin()));
        }
        let table = Arc::new(b.upload_f64(&data));
        *held = (positions, Some(Arc::clone(&table)));
        Rope { table, dim }
    }
}

impl<B: Backend> Rope<B> {
    /// Turns the first dimensions of each head of `x` `[R, heads·head_dim]` by the row's position, or back.
    pub(crate) fn turn(
        &self,
        b: &B,
        x: &mut B::Buffer,
        positions: &B::Index,
        (heads, head_dim): (usize, usize),
        inverse: bool,
    ) {
        b.rope(
            x,
            positions,
            &self.table,
            heads,
            head_dim,
            self.dim,
            inverse,
        );
    }
}
