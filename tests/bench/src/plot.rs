//! Plots as plain SVG text: no fonts, no libraries, the same bytes for the same figures.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// Room for labels: left, top, right (the legend), bottom.
const ROOM: [f64; 4] = [60.0, 36.0, 190.0, 44.0];
/// Told apart also by those who do not see red and green (Okabe and Ito, 2008).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999"];

/// A line or a group of bars: its name and a value for each place on the x axis, where there is one.
pub(crate) type Series = (String, Vec<Option<f64>>);

/// A plot of lines over `places`; both axes have even steps.
pub(crate) fn lines(title: &str, unit: &str, places: &[String], series: &[Series]) -> String {
    let top = ceiling(series);
    let mut svg = frame(title, unit, top);
    let step = (WIDTH - ROOM[0] - ROOM[2]) / places.len().saturating_sub(1).max(1) as f64;
    for (index, place) in places.iter().enumerate() {
        text(&mut svg, ROOM[0] + step * index as f64, HEIGHT - ROOM[3] + 18.0, "middle", place);
    }
    for (number, (name, values)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> = values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| Some((ROOM[0] + step * index as f64, height((*value)?, top))))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(svg, r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>"#, path.join(" ")).ok();
        for (x, y) in points {
            writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#).ok();
        }
        legend(&mut svg, number, name, colour);
    }
    svg + "</svg>\n"
}

/// Bars side by side at each of `places`.
pub(crate) fn bars(title: &str, unit: &str, places: &[String], series: &[Series]) -> String {
    let top = ceiling(series);
    let mut svg = frame(title, unit, top);
    let step = (WIDTH - ROOM[0] - ROOM[2]) / places.len().max(1) as f64;
    let width = step * 0.8 / series.len().max(1) as f64;
    for (index, place) in places.iter().enumerate() {
        text(&mut svg, ROOM[0] + step * (index as f64 + 0.5), HEIGHT - ROOM[3] + 18.0, "middle", place);
    }
    for (number, (name, values)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (x, y) = (ROOM[0] + step * (index as f64 + 0.1) + width * number as f64, height(*value, top));
            let tall = HEIGHT - ROOM[3] - y;
            writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{tall:.1}" fill="{colour}"/>"#)
                .ok();
        }
        legend(&mut svg, number, name, colour);
    }
    svg + "</svg>\n"
}

/// A round number above all values.
fn ceiling(series: &[Series]) -> f64 {
    let most = series.iter().flat_map(|(_, values)| values).flatten().copied().fold(0.0, f64::max).max(1e-9);
    let unit = 10f64.powf(most.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0];
    steps.into_iter().map(|step| step * unit).find(|top| *top >= most).unwrap_or(10.0 * unit)
}

fn height(value: f64, top: f64) -> f64 {
    HEIGHT - ROOM[3] - (HEIGHT - ROOM[1] - ROOM[3]) * (value / top).clamp(0.0, 1.0)
}

fn frame(title: &str, unit: &str, top: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
"#
    );
    text(&mut svg, ROOM[0], 20.0, "start", &format!("{title} [{unit}]"));
    for quarter in 0..=4 {
        let value = top * f64::from(quarter) / 4.0;
        let y = height(value, top);
        let right = WIDTH - ROOM[2];
        let left = ROOM[0];
        writeln!(svg, r##"<line x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#dddddd"/>"##).ok();
        text(&mut svg, ROOM[0] - 6.0, y + 4.0, "end", &crate::report::number(value));
    }
    svg
}

fn legend(svg: &mut String, number: usize, name: &str, colour: &str) {
    let (x, y) = (WIDTH - ROOM[2] + 14.0, ROOM[1] + 10.0 + 18.0 * number as f64);
    writeln!(svg, r#"<rect x="{x:.1}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#, y - 9.0).ok();
    text(svg, x + 16.0, y, "start", name);
}

/// Writing into a `String` cannot fail, here as above.
fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_the_top_touches_the_top_and_a_missing_one_leaves_a_gap() {
        let series = [("a & b".to_owned(), vec![Some(10.0), None, Some(5.0)])];
        let places = ["1", "2", "3"].map(str::to_owned);
        let svg = lines("t", "ns", &places, &series);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains(&format!("60.0,{:.1}", ROOM[1])), "10 is the ceiling of 10\n{svg}");
        assert!(svg.contains("a &amp; b"));
        assert_eq!(
            bars("t", "ns", &places, &series).matches("fill=\"#0072b2\"/>").count(),
            3,
            "two bars and the legend"
        );
    }
}
