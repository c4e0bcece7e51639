//! compat-tests/bench/results.svg: each row's ratio to native as a bar, the aim as a mark.
//!
//! Ratios span three orders of magnitude, so the axis is logarithmic: native is the line at 1, to its right
//! Attacca is ahead. Rows where less is better are turned over, so that right is better everywhere.

use crate::report::Row;
use std::fmt::Write;

const LEFT: f64 = 430.0;
const WIDTH: f64 = 420.0;
const LINE: f64 = 22.0;
const TOP: f64 = 44.0;
/// The axis goes from a tenth to ten times native.
const DECADES: (f64, f64) = (-1.0, 1.0);

/// The picture of these rows.
pub(crate) fn draw(rows: &[Row]) -> String {
    let height = TOP + LINE * rows.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-size=\"15\">Attacca against native Linux on the same cores (right is better; diamond: the aim)</text>\n",
        LEFT + WIDTH + 80.0
    );
    for (ratio, label) in [(0.1, "0.1x"), (0.3, "0.3x"), (1.0, "native"), (3.0, "3x"), (10.0, "10x")] {
        let (x, stroke) = (place(ratio), if ratio == 1.0 { "#444" } else { "#ddd" });
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"{stroke}\"/><text x=\"{x:.1}\" \
             y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
            TOP - 8.0,
            height - 24.0,
            height - 8.0
        );
    }
    for (at, row) in rows.iter().enumerate() {
        bar(&mut svg, TOP + LINE * at as f64, row);
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, y: f64, row: &Row) {
    let ratio = row.advantage();
    let (zero, end) = (place(1.0), place(ratio));
    let colour = if ratio >= 1.0 { "#3a7d44" } else { "#b5543c" };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
         height=\"{:.1}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{ratio:.2}x</text>",
        LEFT - 10.0,
        y + 13.0,
        escape(row.name()),
        zero.min(end),
        y + 3.0,
        (zero - end).abs().max(1.0),
        LINE - 8.0,
        LEFT + WIDTH + 12.0,
        y + 13.0,
    );
    if let Some(aim) = row.aim() {
        let (x, y) = (place(aim), y + LINE / 2.0 - 1.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {y:.1} L{x:.1} {:.1} L{:.1} {y:.1} L{x:.1} {:.1} Z\" fill=\"#2b4c7e\"/>",
            x - 5.0,
            y - 5.0,
            x + 5.0,
            y + 5.0
        );
    }
}

fn place(ratio: f64) -> f64 {
    let (least, most) = DECADES;
    LEFT + (ratio.log10().clamp(least, most) - least) / (most - least) * WIDTH
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{LEFT, WIDTH, draw, place};
    use crate::report::{Figure, Row};

    #[test]
    fn native_is_in_the_middle_and_nothing_leaves_the_picture() {
        assert_eq!(place(1.0), LEFT + WIDTH / 2.0);
        assert_eq!((place(1e-9), place(1e9)), (LEFT, LEFT + WIDTH));
    }

    #[test]
    fn less_is_better_is_turned_over() {
        let figure = |value| Figure::of(vec![value]);
        let row = Row::new("a <b>: µs".into(), figure(30.0), figure(10.0)).less_is_better().with_aim(2.0);
        let svg = draw(&[row]);
        assert!(svg.contains("3.00x") && svg.contains("a &lt;b&gt;") && svg.contains("#2b4c7e"), "{svg}");
    }
}
