//! Plots as inline SVG: bars side by side, bars lying on their side, lines. Colours are the page's variables.

use std::fmt::Write;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 42.0;
const TOP: f64 = 26.0;
/// Room for names in front of lying bars, at least and at most, and what a letter takes of it.
const NAMES: [f64; 2] = [150.0, 260.0];
const LETTER: f64 = 5.9;
const ROW: f64 = 15.0;

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A number as a label: as many digits as a reader can use.
pub fn label(value: f64) -> String {
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match value.abs() {
        v if v >= 1e6 => format!("{} M", trimmed(format!("{:.1}", value / 1e6))),
        v if v >= 1e4 => format!("{} k", trimmed(format!("{:.1}", value / 1e3))),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.2}")),
    }
}

/// A step of 1, 2 or 5 times a power of ten that cuts `most` into about five.
fn step(most: f64) -> f64 {
    let rough = (most / 5.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|by| by * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

/// What a bar or a line is drawn for, with a colour of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    /// Name of a colour variable of the page.
    pub color: String,
}

/// The colours of a section's series, by the order in which they are first asked for.
#[derive(Debug, Default)]
pub struct Palette(Vec<Series>);

impl Palette {
    /// The place of a series.
    pub fn of(&mut self, name: &str) -> usize {
        if let Some(at) = self.0.iter().position(|series| series.name == name) {
            return at;
        }
        self.0.push(Series {
            name: name.to_owned(),
            color: format!("--s{}", self.0.len() % 7),
        });
        self.0.len() - 1
    }

    fn color(&self, at: usize) -> &str {
        self.0.get(at).map_or("--ink", |series| &series.color)
    }

    /// A line that says which colour is whose, with further ready-made entries.
    pub fn legend(&self, further: &str) -> String {
        let mut html = "<div class=key>".to_owned();
        for series in &self.0 {
            let _ = write!(
                html,
                "<span><i style=\"background:var({})\"></i>{}</span>",
                series.color,
                escape(&series.name)
            );
        }
        html.push_str(further);
        html.push_str("</div>");
        html
    }
}

/// A bar: its series, its height, and where a mark stands across it.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    pub series: usize,
    pub value: f64,
    pub mark: Option<f64>,
}

fn open(width: f64, height: f64) -> String {
    format!("<svg viewBox=\"0 0 {width} {height}\" role=img>")
}

/// Lines and labels of a vertical axis from 0 to `most`.
fn grid(svg: &mut String, most: f64, y: impl Fn(f64) -> f64) {
    let step = step(most);
    let mut tick = 0.0;
    while tick <= most {
        let at = y(tick);
        let _ = write!(
            svg,
            "<line x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} stroke=var(--line) />\
             <text x={:.0} y={:.1} text-anchor=end>{}</text>",
            LEFT - 6.0,
            at + 3.5,
            label(tick)
        );
        tick += step;
    }
}

fn axis_names(svg: &mut String, x: &str, y: &str) {
    let _ = write!(
        svg,
        "<text x={:.1} y={:.1} text-anchor=middle>{}</text><text x=0 y=10>{}</text>",
        (WIDTH + LEFT) / 2.0,
        HEIGHT - 8.0,
        escape(x),
        escape(y)
    );
}

/// Bars side by side in groups, each group with its name below.
pub fn bars(groups: &[(String, Vec<Bar>)], palette: &Palette, x: &str, unit: &str) -> String {
    let all = groups.iter().flat_map(|(_, bars)| bars);
    let most = all
        .flat_map(|bar| [Some(bar.value), bar.mark])
        .flatten()
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.1 } else { 1.0 };
    let (plot, base) = (HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
    let y = |value: f64| base - value / most * plot;
    let mut svg = open(WIDTH, HEIGHT);
    grid(&mut svg, most, y);
    let slot = (WIDTH - LEFT) / groups.len().max(1) as f64;
    let widest = groups.iter().map(|(_, bars)| bars.len()).max().unwrap_or(1);
    let bar_width = (slot * 0.78 / widest.max(1) as f64).min(46.0);
    for (i, (name, bars)) in groups.iter().enumerate() {
        let middle = LEFT + slot * (i as f64 + 0.5);
        let _ = write!(
            svg,
            "<text x={middle:.1} y={:.1} text-anchor=middle>{}</text>",
            base + 16.0,
            escape(name)
        );
        for (k, bar) in bars.iter().enumerate() {
            if !bar.value.is_finite() {
                continue;
            }
            let x = middle + (k as f64 - bars.len() as f64 / 2.0) * bar_width;
            let (top, width) = (y(bar.value), bar_width - 2.0);
            let _ = write!(
                svg,
                "<rect x={x:.1} y={top:.1} width={width:.1} height={:.1} rx=2 fill=var({}) />",
                base - top,
                palette.color(bar.series),
            );
            // A label wider than its bar would run into its neighbour's.
            let text = if bar_width < 22.0 {
                format!("{:.0}", bar.value)
            } else {
                label(bar.value)
            };
            let _ = write!(
                svg,
                "<text class=value x={:.1} y={:.1} text-anchor=middle>{text}</text>",
                x + width / 2.0,
                top - 4.0
            );
            if let Some(mark) = bar.mark.filter(|mark| mark.is_finite()) {
                let _ = write!(
                    svg,
                    "<line x1={:.1} x2={:.1} y1={at:.1} y2={at:.1} stroke=var(--mark) stroke-width=3 />",
                    x - 2.0,
                    x + width + 2.0,
                    at = y(mark)
                );
            }
        }
    }
    axis_names(&mut svg, x, unit);
    svg.push_str("</svg>");
    svg
}

/// Bars that lie on their side, for groups with long names; each bar may consist of several pieces.
pub fn lying(groups: &[(String, Vec<Vec<Bar>>)], palette: &Palette, unit: &str) -> String {
    let sum = |pieces: &[Bar]| {
        let values = pieces.iter().map(|piece| piece.value);
        values.filter(|value| value.is_finite()).sum::<f64>()
    };
    let most = groups
        .iter()
        .flat_map(|(_, bars)| bars)
        .map(|pieces| sum(pieces))
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max)
        .max(1e-9);
    let width = 2.0 * WIDTH + 40.0;
    let longest = groups
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let names = (longest as f64 * LETTER).clamp(NAMES[0], NAMES[1]);
    let (left, right) = (names + 6.0, width - 52.0);
    let rows: f64 = groups.iter().map(|(_, bars)| bars.len() as f64 * ROW + 8.0).sum();
    let mut svg = open(width, rows + 20.0);
    let mut at = 4.0;
    for (name, bars) in groups {
        let _ = write!(
            svg,
            "<text x={names:.0} y={:.1} text-anchor=end>{}</text>",
            at + bars.len() as f64 * ROW / 2.0 + 4.0,
            escape(name)
        );
        for pieces in bars {
            let mut x = left;
            for piece in pieces.iter().filter(|piece| piece.value.is_finite()) {
                let long = piece.value / most * (right - left);
                let _ = write!(
                    svg,
                    "<rect x={x:.1} y={at:.1} width={:.1} height={:.1} rx=2 fill=var({}) />",
                    (long - 1.0).max(0.5),
                    ROW - 2.0,
                    palette.color(piece.series)
                );
                if pieces.len() > 1 && long > 30.0 {
                    let _ = write!(
                        svg,
                        "<text class=on x={:.1} y={:.1} text-anchor=middle>{}</text>",
                        x + long / 2.0,
                        at + ROW - 5.0,
                        label(piece.value)
                    );
                }
                x += long;
            }
            let _ = write!(
                svg,
                "<text class=value x={:.1} y={:.1}>{}</text>",
                x + 5.0,
                at + ROW - 5.0,
                label(sum(pieces))
            );
            at += ROW;
        }
        at += 8.0;
    }
    let _ = write!(
        svg,
        "<text x={left} y={:.1}>{}</text></svg>",
        rows + 14.0,
        escape(unit)
    );
    svg
}

/// How the horizontal axis of a line plot is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Across {
    /// Evenly, over all values that occur.
    Even,
    /// Shares of frames: each step to the right is a tenth of the rest.
    Tail,
}

/// A line: its series, whether it is dashed, and its points.
#[derive(Clone, Debug)]
pub struct Curve {
    pub series: usize,
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}

/// Lines over a numeric axis. `log` divides the vertical axis by powers of ten.
pub fn lines(curves: &[Curve], palette: &Palette, across: Across, log: bool, x: &str, unit: &str) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points).copied();
    let place = |x: f64| match across {
        Across::Even => x,
        Across::Tail => -(1.0 - x).max(1e-5).log10(),
    };
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| {
        (low.min(place(x)), high.max(place(x)))
    });
    let span = (high - low).max(1e-9);
    let inner = WIDTH - LEFT - 24.0;
    let at_x = |x: f64| LEFT + 12.0 + (place(x) - low) / span * inner;
    let most = points().map(|(_, y)| y).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.1 } else { 1.0 };
    let least = points().map(|(_, y)| y).filter(|y| *y > 0.0).fold(most, f64::min);
    let (plot, base) = (HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
    let decades = (
        least.log10().floor(),
        most.log10().ceil().max(least.log10().floor() + 1.0),
    );
    let y = |value: f64| {
        if log {
            base - (value.max(least).log10() - decades.0) / (decades.1 - decades.0) * plot
        } else {
            base - value / most * plot
        }
    };
    let mut svg = open(WIDTH, HEIGHT);
    if log {
        let mut power = decades.0;
        while power <= decades.1 {
            let at = y(10f64.powf(power));
            let _ = write!(
                svg,
                "<line x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} stroke=var(--line) />\
                 <text x={:.0} y={:.1} text-anchor=end>{}</text>",
                LEFT - 6.0,
                at + 3.5,
                label(10f64.powf(power))
            );
            power += 1.0;
        }
    } else {
        grid(&mut svg, most, y);
    }
    for (value, name) in ticks(points().map(|(x, _)| x), across) {
        let _ = write!(
            svg,
            "<text x={:.1} y={:.1} text-anchor=middle>{name}</text>",
            at_x(value),
            base + 16.0
        );
    }
    for curve in curves {
        let dash = if curve.dashed {
            " stroke-dasharray=\"5 4\""
        } else {
            ""
        };
        let path: Vec<String> = curve
            .points
            .iter()
            .map(|(px, py)| format!("{:.1},{:.1}", at_x(*px), y(*py)))
            .collect();
        let color = palette.color(curve.series);
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=none stroke=var({color}) stroke-width=2{dash} />",
            path.join(" ")
        );
        if curve.points.len() <= 12 && !curve.dashed {
            for (px, py) in &curve.points {
                let _ = write!(
                    svg,
                    "<circle cx={:.1} cy={:.1} r=3 fill=var({color}) />",
                    at_x(*px),
                    y(*py)
                );
            }
        }
    }
    axis_names(&mut svg, x, unit);
    svg.push_str("</svg>");
    svg
}

/// Where an axis is labelled, and how.
fn ticks(values: impl Iterator<Item = f64>, across: Across) -> Vec<(f64, String)> {
    match across {
        Across::Even => {
            let mut all: Vec<f64> = values.collect();
            all.sort_by(f64::total_cmp);
            all.dedup();
            let every = all.len().div_ceil(10).max(1);
            all.into_iter().step_by(every).map(|x| (x, label(x))).collect()
        }
        Across::Tail => {
            let most = values.fold(0.0, f64::max);
            [0.5, 0.9, 0.99, 0.999, 0.9999]
                .into_iter()
                .filter(|share| *share <= most)
                .map(|share| {
                    let text = format!("{:.2}", share * 100.0);
                    (
                        share,
                        format!("{} %", text.trim_end_matches('0').trim_end_matches('.')),
                    )
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!((step(9.0), step(40.0), step(700.0)), (2.0, 10.0, 200.0));
    }

    #[test]
    fn labels_have_as_many_digits_as_a_reader_can_use() {
        let labels = [0.0, 0.05, 1.5, 22.84, 50.0, 113.4, 100_000.0, 1_500_000.0].map(label);
        assert_eq!(
            labels,
            ["0", "0.05", "1.5", "22.8", "50", "113", "100 k", "1.5 M"]
        );
    }

    #[test]
    fn plots_of_nothing_and_of_what_is_no_number_are_still_plots() {
        let mut palette = Palette::default();
        let odd = Bar {
            series: palette.of("odd"),
            value: f64::NAN,
            mark: Some(f64::INFINITY),
        };
        let curve = Curve {
            series: 0,
            dashed: false,
            points: Vec::new(),
        };
        for svg in [
            bars(&[], &palette, "", ""),
            bars(&[("a".to_owned(), vec![odd])], &palette, "", ""),
            lying(&[("a".to_owned(), vec![vec![odd]])], &palette, ""),
            lines(&[curve], &palette, Across::Tail, true, "", ""),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_tail_is_labelled_as_far_as_it_goes() {
        let names: Vec<String> = ticks([0.0, 0.995].into_iter(), Across::Tail)
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["50 %", "90 %", "99 %"]);
    }
}
