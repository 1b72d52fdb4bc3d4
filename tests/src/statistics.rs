//! Whether counts are as even as chance allows.

/// The probability that counts of equally likely outcomes differ at least this much (Pearson's chi-square test).
/// For an odd number of outcomes, where the distribution function is a finite sum.
pub fn p_value_of_evenness(counts: &[u64]) -> f64 {
    assert!(counts.len() >= 3 && counts.len() % 2 == 1, "an odd number of outcomes, not {}", counts.len());
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let half: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum::<f64>() / 2.0;
    let (mut term, mut sum) = (1.0, 0.0);
    for index in 0..counts.len() / 2 {
        sum += term;
        term *= half / (index + 1) as f64;
    }
    sum * (-half).exp()
}

#[cfg(test)]
mod tests {
    use super::p_value_of_evenness;

    #[test]
    fn p_values_match_published_quantiles() {
        // Chi-square with 2 degrees of freedom: 5.991 at 5 %; with 4: 9.488.
        let three = |d: f64| [1000.0 + d, 1000.0 - d, 1000.0].map(|count| count as u64);
        let chi_square = |counts: &[u64]| {
            let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
            counts.iter().map(|count| (*count as f64 - mean).powi(2) / mean).sum::<f64>()
        };
        let counts = three(54.7);
        assert!((p_value_of_evenness(&counts) - (-chi_square(&counts) / 2.0).exp()).abs() < 1e-12);
        assert!((p_value_of_evenness(&counts) - 0.05).abs() < 0.01);
        assert!((p_value_of_evenness(&[1000; 5]) - 1.0).abs() < 1e-12);
        let counts = [1068, 932, 1006, 994, 1000];
        let half = chi_square(&counts) / 2.0;
        assert!((p_value_of_evenness(&counts) - (-half).exp() * (1.0 + half)).abs() < 1e-12);
    }

    #[test]
    fn a_starved_outcome_is_noticed() {
        assert!(p_value_of_evenness(&[500, 500, 0]) < 1e-6);
        assert!(p_value_of_evenness(&[400, 300, 300]) > 1e-6);
    }
}
