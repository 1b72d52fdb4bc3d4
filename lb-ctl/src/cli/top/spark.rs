//! Small texts: sparklines, bars, numbers with a unit.

use std::collections::VecDeque;

/// Heights of a sparkline; nothing at all is a blank.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last `width` values, as high as they are against the highest of them. What was not there yet is blank.
pub(super) fn sparkline(values: &VecDeque<f32>, width: usize) -> String {
    let shown = values.iter().skip(values.len().saturating_sub(width));
    let most = shown.clone().fold(0.0, |most: f32, value| most.max(*value));
    let height = |value: &f32| match value {
        value if *value <= 0.0 => '▁',
        value => HEIGHTS[((value / most * 7.0).ceil() as usize).min(7)],
    };
    let line: String = shown.map(height).collect();
    format!("{line:>width$}")
}

/// A bar of `width` cells for a share between 0 and 1.
pub(super) fn bar(share: f64, width: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    // What is more than nothing shows.
    let full = if share > 0.0 { full.max(1) } else { 0 };
    format!("{}{}", "█".repeat(full), "░".repeat(width - full))
}

/// A number in four or five characters: `0`, `0.5`, `42`, `1.2k`, `34.5M`.
pub(super) fn number(value: f64) -> String {
    if value < 0.05 {
        return "0".to_owned();
    }
    if value < 9.95 {
        return format!("{value:.1}");
    }
    if value < 999.5 {
        return format!("{value:.0}");
    }
    let units = ["k", "M", "G", "T", "P"];
    let mut scaled = value / 1000.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < units.len() {
        (scaled, unit) = (scaled / 1000.0, unit + 1);
    }
    if scaled < 9.95 { format!("{scaled:.1}{}", units[unit]) } else { format!("{scaled:.0}{}", units[unit]) }
}

/// A count in as many characters.
pub(super) fn count(value: u64) -> String {
    if value < 1000 { value.to_string() } else { number(value as f64) }
}

/// A text of at most `width` characters: of a longer one the middle is left out, since names differ at their ends.
pub(super) fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    if width == 0 { String::new() } else { format!("{start}…{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown =
            [0.0, 0.04, 0.5, 9.9, 9.97, 42.4, 999.0, 999.6, 1234.0, 45_678.0, 999_600.0, 7.5e9, 2e18].map(number);
        let expected = ["0", "0", "0.5", "9.9", "10", "42", "999", "1.0k", "1.2k", "46k", "1.0M", "7.5G", "2000P"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn counts_are_whole() {
        assert_eq!([0, 7, 999, 1000, 2_400_000].map(count), ["0", "7", "999", "1.0k", "2.4M"]);
    }

    #[test]
    fn a_sparkline_shows_the_latest_against_the_highest() {
        let values: VecDeque<f32> = [100.0, 0.0, 1.0, 4.0, 8.0].into();
        assert_eq!(sparkline(&values, 4), "▁▂▅█");
        assert_eq!(sparkline(&values, 6), " █▁▂▂▂");
        assert_eq!(sparkline(&VecDeque::new(), 3), "   ");
    }

    #[test]
    fn bars_and_names_fit() {
        assert_eq!([bar(0.0, 4), bar(0.001, 4), bar(0.5, 4), bar(7.0, 4)], ["░░░░", "█░░░", "██░░", "████"]);
        assert_eq!(
            [fit("short", 5), fit("playground/web", 9), fit("abc", 1), fit("abc", 0)],
            ["short", "play…/web", "…", ""]
        );
    }
}
