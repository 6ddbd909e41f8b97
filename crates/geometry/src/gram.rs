//! Gram matrices of responses' gradients, split by parameter group.
//!
//! For a linear map y = xWᵀ, response p's own weight gradient is G_pᵀA_p over its rows (its stream of the
//! prompt and its completion). It is materialised for one layer at a time: the same product is needed for
//! accumulation anyway. The head and the embeddings go without materialising (vocabulary × width is large and
//! rows are few): ⟨g_p, g_q⟩ = Σ_{s∈p,t∈q} (G_s·G_t)(A_s·A_t). When embedding and head are one matrix its
//! gradient is the sum of both, so the cross terms between look-up and head count. Sums are in f64.
//!
//! Source: ghost norms as in Li et al. 2022 (arXiv 2110.05679, §4); the pairwise form and the tied cross terms
//! are this project's. Tested against PyTorch autograd in `tests/parity.rs`.

use std::ops::Range;
use unbraid_model::{
    BackwardPass, GradientSink, Gradients, LinearGradient, ParamId, Parameters, RowSpace,
    head_backward_into,
};
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut};

/// Responses whose full Gram matrix is wanted, with the factor of each one's gradient in the training
/// gradient (−d_w/B for a chosen response, +d_l/B for a rejected one).
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Response numbers of the batch.
    pub responses: Vec<usize>,
    /// One factor per response.
    pub coefficients: Vec<f64>,
}

impl Cluster {
    /// A cluster that is measured and takes no part in a training gradient.
    pub fn measured(responses: Vec<usize>) -> Self {
        Cluster {
            coefficients: vec![0.0; responses.len()],
            responses,
        }
    }
}

/// The Gram matrix of one cluster, split by parameter group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedGram {
    /// Number of responses n.
    pub n: usize,
    /// For each group (in the sink's order) the n × n matrix, row-major.
    pub groups: Vec<Vec<f64>>,
}

impl GroupedGram {
    /// ⟨g_i, g_j⟩ over all groups.
    pub fn total(&self, i: usize, j: usize) -> f64 {
        self.groups.iter().map(|g| g[i * self.n + j]).sum()
    }

    /// All of [`GroupedGram::total`], `[n, n]` row-major.
    pub fn matrix(&self) -> Vec<f64> {
        let entries = (0..self.n).flat_map(|i| (0..self.n).map(move |j| self.total(i, j)));
        entries.collect()
    }

    fn add(&mut self, group: usize, i: usize, j: usize, value: f64) {
        self.groups[group][i * self.n + j] += value;
        if i != j {
            self.groups[group][j * self.n + i] += value;
        }
    }
}

/// A sink that measures clusters and, when given gradients, also accumulates the training gradient.
///
/// Needs a per-response plan and seeds of one.
pub struct GramSink<'a, B: Backend> {
    clusters: &'a [Cluster],
    gradients: Option<&'a mut Gradients<B>>,
    group_of: Vec<usize>,
    trainable: Vec<bool>,
    head: Option<ParamId>,
    kept: Option<OwnGradients<B>>,
    /// The coefficient of every gradient row, once it was needed.
    row_factors: Option<B::Buffer>,
    /// Names of the parameter groups, in order of first appearance.
    pub group_names: Vec<String>,
    /// One result per cluster.
    pub grams: Vec<GroupedGram>,
    /// Of each cluster the n × n matrix of the head's own gradients (of a tied matrix without the look-up's share); empty
    /// while the head is frozen.
    pub heads: Vec<Vec<f64>>,
}

/// Every response's own gradients: parameter, cluster, one buffer a response. Coefficients that depend on the inner
/// products are applied to them without a second walk.
pub struct OwnGradients<B: Backend>(Vec<(ParamId, usize, Vec<B::Buffer>)>);

impl<B: Backend> OwnGradients<B> {
    /// Adds Σ coefficient · gradient; `clusters` are the sink's with coefficients that are final.
    pub fn apply(&self, backend: &B, clusters: &[Cluster], gradients: &mut Gradients<B>) {
        for (param, cluster, own) in &self.0 {
            if let Some(total) = &mut gradients.values[param.0] {
                for (gradient, &c) in own.iter().zip(&clusters[*cluster].coefficients) {
                    backend.axpy(c, gradient, total);
                }
            }
        }
    }
}

impl<'a, B: Backend> GramSink<'a, B> {
    /// A sink over the parameters for which `trainable` holds.
    pub fn new(
        params: &Parameters<B>,
        trainable: impl Fn(ParamId) -> bool,
        clusters: &'a [Cluster],
        gradients: Option<&'a mut Gradients<B>>,
    ) -> Self {
        let mut group_names: Vec<String> = Vec::new();
        let group_of = params
            .specs
            .iter()
            .map(|spec| {
                let known = group_names.iter().position(|g| *g == spec.group);
                known.unwrap_or_else(|| {
                    group_names.push(spec.group.clone());
                    group_names.len() - 1
                })
            })
            .collect();
        let grams = clusters
            .iter()
            .map(|c| GroupedGram {
                n: c.responses.len(),
                groups: vec![vec![0.0; c.responses.len().pow(2)]; group_names.len()],
            })
            .collect();
        GramSink {
            clusters,
            gradients,
            group_of,
            trainable: (0..params.specs.len())
                .map(|i| trainable(ParamId(i)))
                .collect(),
            head: None,
            kept: None,
            row_factors: None,
            group_names,
            grams,
            heads: Vec::new(),
        }
    }

    /// Keeps every response's own gradients for [`GramSink::take_own`], where [`GramSink::can_keep`].
    pub fn keeping(mut self) -> Self {
        self.kept = Some(OwnGradients(Vec::new()));
        self
    }

    /// What was kept.
    pub fn take_own(&mut self) -> Option<OwnGradients<B>> {
        self.kept.take()
    }

    /// Whether gradients of `responses` responses can be kept: every trainable parameter is materialised, and
    /// all together stay below `limit` elements.
    pub fn can_keep(params: &Parameters<B>, responses: usize, limit: usize) -> bool {
        let looked_up = |id: ParamId| ["embedding", "head"].contains(&&*params.specs[id.0].group);
        !params.trainable().any(looked_up) && params.trainable_count() * responses <= limit
    }

    /// Takes the inner products of one parameter's materialised gradients, response by response, and adds
    /// their combination to the training gradient.
    fn measure(&mut self, backend: &B, param: ParamId, cluster: usize, own: Vec<B::Buffer>) {
        self.take_inner_products(backend, param, cluster, &own);
        if let Some(kept) = &mut self.kept {
            kept.0.push((param, cluster, own));
        }
    }

    fn take_inner_products(
        &mut self,
        backend: &B,
        param: ParamId,
        cluster: usize,
        own: &[B::Buffer],
    ) {
        let (gram, group) = (&mut self.grams[cluster], self.group_of[param.0]);
        let factors = &self.clusters[cluster].coefficients;
        let mut total = match &mut self.gradients {
            Some(gradients) => gradients.values[param.0].as_mut(),
            None => None,
        };
        if let [x, y] = own {
            let (ww, ll, wl) = backend.gram_and_add(x, y, factors[0], factors[1], total);
            gram.add(group, 0, 0, ww);
            gram.add(group, 1, 1, ll);
            gram.add(group, 0, 1, wl);
            return;
        }
        for (i, x) in own.iter().enumerate() {
            for (j, y) in own.iter().enumerate().skip(i) {
                let inner = backend.dot(x, 0, y, 0, backend.len(x));
                gram.add(group, i, j, inner);
            }
            if let Some(total) = total.as_deref_mut() {
                backend.axpy(factors[i], x, total);
            }
        }
    }

    /// Whether training and geometry of pairs share the responses' formed gradients: they are needed for the sum anyway, but
    /// then a shared prompt's rows go in once for each response. Counted in multiply-adds.
    fn forming_is_cheaper(&self, pass: &BackwardPass<'_, B>, x: &LinearGradient<'_, B>) -> bool {
        /// A number written and read again costs as much as about so many multiply-adds.
        const TRAFFIC: usize = 24;
        /// Of smaller weights (adapters) all responses' products together are one operation of the backend.
        const SMALL: usize = 1 << 17;
        if x.d_in * x.d_out < SMALL
            || self.gradients.is_none()
            || self.clusters.iter().any(|c| c.responses.len() != 2)
        {
            return false;
        }
        let (rows, n) = (pass.plan.rows, pass.batch.rows());
        let formed = (rows + 2 * TRAFFIC * self.clusters.len()) * x.d_in * x.d_out;
        let products = |cluster: &Cluster| {
            let len = |i: usize| pass.plan.response_rows(cluster.responses[i]).len();
            let (w, l) = (len(0), len(1));
            (w * w + l * l + w * l) * x.d_out + (w + l) * (w + l) / 2 * x.d_in
        };
        let ghost: usize = self.clusters.iter().map(products).sum();
        formed <= ghost + n * (x.d_in * x.d_out + TRAFFIC * x.d_out)
    }

    /// Takes the inner products of one weight's gradients without keeping any.
    fn linear_gram(&mut self, pass: &BackwardPass<'_, B>, x: &LinearGradient<'_, B>) {
        let (group, plan) = (self.group_of[x.weight.0], pass.plan);
        let spans = |&p: &usize| &plan.responses[p][..];
        let probes = |cluster: &Cluster| cluster.responses.iter().map(spans).collect();
        let clusters: Vec<Vec<_>> = self.clusters.iter().map(probes).collect();
        let inner = pass
            .backend
            .linear_grams(x.a, x.g, &clusters, x.d_in, x.d_out);
        for (gram, inner) in self.grams.iter_mut().zip(inner) {
            let sums = gram.groups[group].iter_mut().zip(inner);
            sums.for_each(|(sum, inner)| *sum += inner);
        }
    }

    /// Adds the clusters' combination of one weight's gradients: rows of a shared prompt are combined before the product.
    fn accumulate(&mut self, pass: &BackwardPass<'_, B>, x: &LinearGradient<'_, B>) {
        let (b, plan) = (pass.backend, pass.plan);
        let Some(total) = self
            .gradients
            .as_mut()
            .and_then(|g| g.values[x.weight.0].as_mut())
        else {
            return;
        };
        let factors = self.row_factors.get_or_insert_with(|| {
            let rows = |p| plan.response_rows(p);
            b.upload_f64(&row_coefficients(self.clusters, plan.rows, rows))
        });
        let rows = plan.activation_rows.as_ref().expect("a per-response plan");
        let n = pass.batch.rows();
        let mut g = b.zeros(n * x.d_out);
        b.scatter_add(x.g, rows, Some(factors), &mut g, x.d_out);
        b.gemm(
            Gemm::add(x.d_out, x.d_in, n),
            Mat::rows(&g, 0, x.d_out).t(),
            Mat::rows(x.a, 0, x.d_in),
            MatMut::rows(total, 0, x.d_in),
        );
    }

    /// Adds ⟨g_i, g_j⟩ of every cluster from a function of two responses.
    fn measure_pairs(&mut self, param: ParamId, mut inner: impl FnMut(usize, usize) -> f64) {
        let group = self.group_of[param.0];
        for (cluster, gram) in self.clusters.iter().zip(&mut self.grams) {
            for (i, &p) in cluster.responses.iter().enumerate() {
                for (j, &q) in cluster.responses.iter().enumerate().skip(i) {
                    gram.add(group, i, j, inner(p, q));
                }
            }
        }
    }
}

/// The factor of every row of a row space, from its response's coefficient; zero outside all clusters.
/// `range_of` names the rows of a response.
pub fn row_coefficients(
    clusters: &[Cluster],
    rows: usize,
    range_of: impl Fn(usize) -> Range<usize>,
) -> Vec<f64> {
    let mut coefficients = vec![0.0; rows];
    for cluster in clusters {
        for (&p, &c) in cluster.responses.iter().zip(&cluster.coefficients) {
            coefficients[range_of(p)].fill(c);
        }
    }
    coefficients
}

/// Response `p`'s own gradient of a linear weight, `[d_out, d_in]`: one product per run of rows.
fn own_linear<B: Backend>(
    pass: &BackwardPass<'_, B>,
    x: &LinearGradient<'_, B>,
    p: usize,
) -> B::Buffer {
    let spans = &pass.plan.responses[p];
    let mut own = match spans[..] {
        [] => pass.backend.zeros(x.d_out * x.d_in), // a response without rows has no gradient
        _ => pass.backend.empty(x.d_out * x.d_in),
    };
    for (i, span) in spans.iter().enumerate() {
        let shape = Gemm {
            beta: if i == 0 { 0.0 } else { 1.0 },
            ..Gemm::replace(x.d_out, x.d_in, span.len)
        };
        pass.backend.gemm(
            shape,
            Mat::rows(x.g, span.grad, x.d_out).t(),
            Mat::rows(x.a, span.act, x.d_in),
            MatMut::rows(&mut own, 0, x.d_in),
        );
    }
    own
}

impl<B: Backend> GradientSink<B> for GramSink<'_, B> {
    fn wants(&self, param: ParamId) -> bool {
        self.trainable[param.0]
    }

    fn linear(&mut self, pass: &BackwardPass<'_, B>, x: LinearGradient<'_, B>) {
        if self.wants(x.weight) && (self.kept.is_some() || self.forming_is_cheaper(pass, &x)) {
            for c in 0..self.clusters.len() {
                let responses = &self.clusters[c].responses;
                let own: Vec<B::Buffer> =
                    responses.iter().map(|&p| own_linear(pass, &x, p)).collect();
                self.measure(pass.backend, x.weight, c, own);
            }
        } else if self.wants(x.weight) {
            self.linear_gram(pass, &x);
            self.accumulate(pass, &x);
        }
        if let Some(bias) = x.bias.filter(|&bias| self.wants(bias)) {
            self.row_sum(pass, bias, RowSpace::Gradient, x.g, x.d_out);
        }
    }

    fn row_sum(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        space: RowSpace,
        contributions: &B::Buffer,
        len: usize,
    ) {
        for c in 0..self.clusters.len() {
            let own: Vec<B::Buffer> = self.clusters[c]
                .responses
                .iter()
                .map(|&p| {
                    let rows = space.of_response(pass, p);
                    let mut sum = pass.backend.zeros(len);
                    pass.backend
                        .column_sum(1.0, contributions, rows, len, &mut sum);
                    sum
                })
                .collect();
            self.measure(pass.backend, param, c, own);
        }
    }

    fn lookup(
        &mut self,
        pass: &BackwardPass<'_, B>,
        param: ParamId,
        ids: &B::Index,
        g: &B::Buffer,
        d: usize,
    ) {
        let (b, plan) = (pass.backend, pass.plan);
        let tied = self.head == Some(param);
        let targets = |p: usize| pass.plan.targets[p].clone();
        let head = tied.then(|| pass.head_arguments(param));
        self.measure_pairs(param, |p, q| {
            let (rows_p, rows_q) = (plan.response_rows(p), plan.response_rows(q));
            let mut inner = b.lookup_inner(g, ids, rows_p.clone(), rows_q.clone(), d);
            if let Some(head) = &head {
                inner += b.tied_inner(g, ids, rows_p, head, targets(q));
                inner += b.tied_inner(g, ids, rows_q, head, targets(p));
            }
            inner
        });
        let factors = row_coefficients(self.clusters, plan.rows, |p| plan.response_rows(p));
        if let Some(gradients) = &mut self.gradients
            && let Some(total) = &mut gradients.values[param.0]
        {
            b.scatter_add(g, ids, Some(&b.upload_f64(&factors)), total, d);
        }
    }

    fn head(&mut self, pass: &BackwardPass<'_, B>, param: ParamId, args: &mut HeadBackward<'_, B>) {
        if !self.wants(param) {
            pass.backend.head_backward(args);
            return;
        }
        self.head = Some(param);
        let targets = |p: usize| pass.plan.targets[p].clone();
        let mut wanted = Vec::new();
        for cluster in self.clusters {
            for (i, &p) in cluster.responses.iter().enumerate() {
                wanted.extend(
                    cluster.responses[i..]
                        .iter()
                        .map(|&q| (targets(p), targets(q))),
                );
            }
        }
        let factors = pass
            .backend
            .upload_f64(&row_coefficients(self.clusters, args.m, targets));
        let total = match &mut self.gradients {
            Some(gradients) => gradients.values[param.0].as_mut(),
            None => None,
        };
        let mut args = HeadBackward {
            coefficients: Some(&factors),
            dh: args.dh.as_deref_mut(),
            dw: None,
            inner: &wanted,
            ..*args
        };
        let inner = head_backward_into(pass.backend, &mut args, total);
        let mut inner = inner.into_iter();
        let group = self.group_of[param.0];
        for gram in &mut self.grams {
            let mut own = GroupedGram {
                n: gram.n,
                groups: vec![vec![0.0; gram.n * gram.n]],
            };
            for i in 0..gram.n {
                for j in i..gram.n {
                    let inner = inner.next().expect("one product per wanted pair");
                    own.add(0, i, j, inner);
                    gram.add(group, i, j, inner);
                }
            }
            self.heads.push(own.groups.swap_remove(0));
        }
    }
}
