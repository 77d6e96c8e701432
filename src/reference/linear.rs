//! A linear layer, `y = x · w + b`, and its gradients.

use super::Real;

/// `y [rows,n] = x [rows,m] · w [m,n] + b [n]`
pub fn forward<F: Real>(x: &[F], w: &[F], b: &[F]) -> Vec<F> {
    let n = b.len();
    let m = w.len() / n;
    let mut y = Vec::with_capacity(x.len() / m * n);
    for row in x.chunks_exact(m) {
        let start = y.len();
        y.extend_from_slice(b);
        add_product(row, w, &mut y[start..]);
    }
    y
}

/// `y [n] += x [m] · w [m,n]`
pub fn add_product<F: Real>(x: &[F], w: &[F], y: &mut [F]) {
    for (&xi, wi) in x.iter().zip(w.chunks_exact(y.len())) {
        for (yj, &wij) in y.iter_mut().zip(wi) {
            *yj += xi * wij;
        }
    }
}

/// `dx [m] = dy [n] · wᵀ`, for `w [m,n]`
pub fn backward_input<F: Real>(dy: &[F], w: &[F]) -> Vec<F> {
    w.chunks_exact(dy.len()).map(|wi| wi.iter().zip(dy).map(|(&wij, &dyj)| wij * dyj).sum()).collect()
}

/// `dw [m,n] += xᵀ · dy` and `db [n] += dy` for one row: `x [m]`, `dy [n]`
pub fn backward_weights<F: Real>(x: &[F], dy: &[F], dw: &mut [F], db: &mut [F]) {
    for (&xi, dwi) in x.iter().zip(dw.chunks_exact_mut(dy.len())) {
        for (dwij, &dyj) in dwi.iter_mut().zip(dy) {
            *dwij += xi * dyj;
        }
    }
    for (dbj, &dyj) in db.iter_mut().zip(dy) {
        *dbj += dyj;
    }
}
