//! The comparisons that have a target as a bar chart, in SVG. It has no background and takes its colours
//! from the reader's scheme, so it can be read on light and dark pages.

use std::fmt::Write;

use crate::figures::Target;
use crate::report::Report;

// Lengths are in pixels.
const ROW: f64 = 22.0;
const HEAD: f64 = 48.0;
const FOOT: f64 = 20.0;
/// Where bars begin, how long one of ratio 1 is, and the ratio at which they are cut.
const LEFT: f64 = 310.0;
const ONE: f64 = 180.0;
const MOST: f64 = 2.0;
const WIDTH: f64 = LEFT + ONE * MOST + 180.0;

const STYLE: &str = "text{font:13px sans-serif;fill:#24292f}.soft{fill:#57606a}.met{fill:#2da44e}\
.missed{fill:#cf222e}line{stroke:#24292f}.grid{stroke:#8c959f;stroke-opacity:.4}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}line{stroke:#e6edf3}}";

struct Bar {
    label: String,
    median: f64,
    least: f64,
    most: f64,
    target: Target,
}

/// The chart; `None` if nothing with a target was measured.
pub(crate) fn chart(report: &Report) -> Option<String> {
    let bars = bars(report);
    if bars.is_empty() {
        return None;
    }
    let height = HEAD + ROW * bars.len() as f64 + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>boardlane links, compared</title>\n\
         <style>{STYLE}</style>\n"
    );
    let title = report.title();
    text(&mut svg, (8.0, 18.0), "", &title);
    text(&mut svg, (8.0, 36.0), "soft", "median of paired ratios, least to most; | is the target");
    let bottom = height - FOOT + 4.0;
    for tick in [0.0, 0.5, 1.0, 1.5, 2.0] {
        line(&mut svg, "grid", [x(tick), HEAD, x(tick), bottom]);
        text(&mut svg, (x(tick) - 8.0, height - 3.0), "soft", &format!("{tick}"));
    }
    for (number, bar) in bars.iter().enumerate() {
        draw(&mut svg, HEAD + ROW * number as f64, bar);
    }
    svg += "</svg>\n";
    Some(svg)
}

fn bars(report: &Report) -> Vec<Bar> {
    let mut bars = Vec::new();
    for outcome in &report.outcomes {
        for row in outcome.rows() {
            let what = row.figure.name.rsplit_once(", ").map_or(row.figure.name, |(what, _)| what);
            for compared in row.comparisons().filter(|compared| compared.comparison.to.is_some()) {
                let Some(target) = compared.comparison.target else { continue };
                let label = format!("{} {what}: {}", outcome.group.name, compared.name());
                let spread = compared.spread();
                if !spread.median.is_nan() {
                    let (median, least, most) = (spread.median, spread.least, spread.most);
                    bars.push(Bar { label, median, least, most, target });
                }
            }
        }
    }
    bars
}

fn draw(svg: &mut String, top: f64, bar: &Bar) {
    let Bar { label, median, least, most, target } = bar;
    let (Target::AtLeast(wanted) | Target::AtMost(wanted)) = *target;
    let (class, verdict) = match target.missed_by(*median) {
        None => ("met", "met"),
        Some(_) => ("missed", "missed"),
    };
    let middle = top + ROW / 2.0;
    text(svg, (8.0, middle + 4.0), "", label);
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        top + 4.0,
        x(*median) - LEFT,
        ROW - 8.0
    );
    line(svg, "", [x(*least), middle, x(*most), middle]);
    line(svg, "", [x(wanted), top + 1.0, x(wanted), top + ROW - 1.0]);
    let words = format!("{median:.2}, {target}: {verdict}");
    text(svg, (x(MOST) + 8.0, middle + 4.0), "", &words);
}

/// Where a ratio is.
fn x(ratio: f64) -> f64 {
    LEFT + ONE * ratio.clamp(0.0, MOST)
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

fn line(svg: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}
