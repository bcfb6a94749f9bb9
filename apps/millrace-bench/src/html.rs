//! A report as one HTML file that needs nothing else: plots as inline SVG, tables, machine, method.

use crate::BenchError;
use crate::compare::{Change, changes, fields};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 44.0;
const BOTTOM: f64 = 42.0;
const TOP: f64 = 14.0;

const STYLE: &str = "
:root{--ink:#1b2330;--soft:#5c6778;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--avx2:#2563b8;--scalar:#93a4b8;--floor:#c4611c;--better:#1f7a4d;--worse:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#313a47;--paper:#161b22;--wash:#1d242d;--avx2:#6aa5f0;--scalar:#6d7c8f;--floor:#e8935a;--better:#5cc48d;--worse:#f08a80}}
body{margin:0 auto;max-width:1000px;padding:2.2em 1.4em;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2.2em 0 .6em}p.sub{color:var(--soft);margin:.2em 0 0}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:1.2em 1.6em}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.2em}figcaption small{color:var(--soft);font-weight:400}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg .value{fill:var(--ink);font-size:10.5px}
.key{display:flex;flex-wrap:wrap;gap:1.3em;color:var(--soft);font-size:.9em;margin:.4em 0 1em}.key i{display:inline-block;width:.95em;height:.95em;margin-right:.4em;vertical-align:-.12em;border-radius:2px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92em}th{text-align:left;color:var(--soft);font-weight:600;background:var(--wash)}
th,td{padding:.35em .6em;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}td.better{color:var(--better)}td.worse{color:var(--worse)}
ul{padding-left:1.2em;color:var(--soft)}code{font-size:.92em}";

/// Writes the report to a file, beside an earlier one if there is one.
pub fn write(file: &Path, report: &Value, earlier: Option<&Value>) -> Result<(), BenchError> {
    std::fs::write(file, page(report, earlier)).map_err(|source| BenchError::File {
        path: file.to_owned(),
        source,
    })
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => "–".to_owned(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.prec$}", number.as_f64().unwrap_or(f64::NAN), prec = 1)
        }
        other => escape(&other.to_string()),
    }
}

fn page(report: &Value, earlier: Option<&Value>) -> String {
    let machine = &report["machine"];
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>millrace-bench {bench}</title><style>{STYLE}</style>\
         <h1>millrace-bench {bench}</h1><p class=sub>{cpu}, {ghz} GHz measured, {cpus} CPUs, Linux {kernel}</p>",
        bench = words(&report["bench"]),
        cpu = words(&machine["cpu"]),
        ghz = words(&machine["gigahertz"]),
        cpus = words(&machine["cpus"]),
        kernel = words(&machine["kernel"]),
    );
    let rows: Vec<&Value> = report["rows"].as_array().into_iter().flatten().collect();
    let groups = groups(&rows);
    if !groups.is_empty() {
        page.push_str(
            "<div class=key style=\"margin-top:1.6em\"><span><i style=\"background:var(--avx2)\"></i>AVX2</span>\
             <span><i style=\"background:var(--scalar)\"></i>scalar</span>\
             <span><i style=\"background:var(--floor);height:.2em;vertical-align:.25em\"></i>floor: a loop that only touches \
             descriptors and the frame's first line</span></div>",
        );
        let _ = write!(
            page,
            "<h2>Core cycles a packet</h2>{}",
            panels(&groups, "cycles_per_packet")
        );
        if rows.iter().any(|row| row["instructions_per_packet"].is_f64()) {
            let _ = write!(
                page,
                "<h2>Instructions a packet</h2>{}",
                panels(&groups, "instructions_per_packet")
            );
        }
    }
    if let Some(earlier) = earlier {
        page.push_str(&comparison(&changes(earlier, report)));
    }
    page.push_str("<h2>Rows</h2>");
    page.push_str(&table(&rows));
    page.push_str("<h2>Method and limits</h2><ul>");
    for note in report["notes"].as_array().into_iter().flatten() {
        let _ = write!(page, "<li>{}", words(note));
    }
    page.push_str("</ul></html>\n");
    page
}

/// Rows that make one plot: the same but for burst and path.
struct Group<'a> {
    title: String,
    rows: Vec<&'a Value>,
}

fn groups<'a>(rows: &[&'a Value]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for row in rows.iter().filter(|row| row["burst"].is_u64()) {
        let title = format!(
            "{}<small>, {}, ring {}, {} metadata</small>",
            words(&row["scenario"]).replace('_', " "),
            words(&row["state"]),
            row["ring"],
            words(&row["metadata"])
        );
        match groups.iter_mut().find(|group| group.title == title) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                title,
                rows: vec![row],
            }),
        }
    }
    groups
}

fn panels(groups: &[Group<'_>], column: &str) -> String {
    let mut html = "<div class=panels>".to_owned();
    for group in groups {
        let _ = write!(
            html,
            "<figure><figcaption>{}</figcaption>{}</figure>",
            group.title,
            bars(&group.rows, column)
        );
    }
    html.push_str("</div>");
    html
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

/// Bars by burst, one a path.
fn bars(rows: &[&Value], column: &str) -> String {
    let mut bursts: Vec<u64> = rows.iter().filter_map(|row| row["burst"].as_u64()).collect();
    bursts.sort_unstable();
    bursts.dedup();
    let mut paths: Vec<&str> = rows.iter().filter_map(|row| row["path"].as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let value = |row: &Value| row[column].as_f64().filter(|value| value.is_finite());
    let most = rows.iter().filter_map(|row| value(row)).fold(1.0, f64::max) * 1.08;
    let (plot, base) = (HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
    let y = |value: f64| base - value / most * plot;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img>");
    let step = step(most);
    let mut tick = 0.0;
    while tick <= most {
        let at = y(tick);
        let _ = write!(
            svg,
            "<line x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} stroke=var(--line) />\
             <text x={:.0} y={:.1} text-anchor=end>{tick}</text>",
            LEFT - 6.0,
            at + 3.5
        );
        tick += step;
    }
    let slot = (WIDTH - LEFT) / bursts.len().max(1) as f64;
    let bar = (slot * 0.7 / paths.len().max(1) as f64).min(46.0);
    for (i, burst) in bursts.iter().enumerate() {
        let middle = LEFT + slot * (i as f64 + 0.5);
        let _ = write!(
            svg,
            "<text x={middle:.1} y={:.1} text-anchor=middle>{burst}</text>",
            base + 16.0
        );
        for (k, path) in paths.iter().enumerate() {
            let found = rows
                .iter()
                .find(|row| row["burst"].as_u64() == Some(*burst) && row["path"].as_str() == Some(path));
            let Some((row, height)) = found.and_then(|row| Some((row, value(row)?))) else {
                continue;
            };
            let x = middle + (k as f64 - paths.len() as f64 / 2.0) * bar;
            let (top, width) = (y(height), bar - 2.0);
            let _ = write!(
                svg,
                "<rect x={x:.1} y={top:.1} width={width:.1} height={:.1} rx=2 fill=var(--{path}) />\
                 <text class=value x={:.1} y={:.1} text-anchor=middle>{height:.0}</text>",
                base - top,
                x + width / 2.0,
                top - 4.0
            );
            if column == "cycles_per_packet"
                && let Some(times) = row["vs_floor"].as_f64()
            {
                let _ = write!(
                    svg,
                    "<line x1={:.1} x2={:.1} y1={at:.1} y2={at:.1} stroke=var(--floor) stroke-width=3 />",
                    x - 2.0,
                    x + width + 2.0,
                    at = y(height / times)
                );
            }
        }
    }
    let _ = write!(
        svg,
        "<text x={:.1} y={:.1} text-anchor=middle>frames a poll</text></svg>",
        (WIDTH + LEFT) / 2.0,
        HEIGHT - 8.0
    );
    svg
}

fn comparison(changes: &[Change]) -> String {
    let mut html = "<h2>Against the earlier run</h2><table><tr><th>row<th><th class=n>before<th class=n>after<th class=n>change\
         <th class=n>noise<th>verdict"
        .to_owned();
    for change in changes {
        let verdict = change.verdict();
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td class=n>{:.1}<td class=n>{:.1}<td class=n>{:+.1} %<td class=n>{:.1} %<td class={verdict}>{verdict}",
            escape(&change.row),
            change.column,
            change.before,
            change.after,
            change.percent(),
            change.noise_percent,
        );
    }
    html.push_str("</table>");
    html
}

/// Every row with its plain fields.
fn table(rows: &[&Value]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let columns: Vec<&str> = fields(first)
        .into_iter()
        .filter(|(key, value)| !value.is_array() && *key != "about")
        .map(|(key, _)| key)
        .collect();
    let class = |key: &str| {
        let number = rows.iter().any(|row| row[key].is_number());
        if number { " class=n" } else { "" }
    };
    let mut html = "<table><tr>".to_owned();
    for key in &columns {
        let _ = write!(html, "<th{}>{}", class(key), escape(&key.replace('_', " ")));
    }
    for row in rows {
        html.push_str("<tr>");
        for key in &columns {
            let _ = write!(html, "<td{}>{}", class(key), words(&row[*key]));
        }
    }
    html.push_str("</table>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        json!({"bench": "path", "machine": {"cpu": "A <fast> one", "cpus": 2, "gigahertz": 3.0, "kernel": "6"},
            "notes": ["a & b"], "rows": [
            {"scenario": "rx_drop", "burst": 32, "ring": 1024, "state": "warm", "metadata": "plain", "path": "avx2",
             "cycles_per_packet": 8.5, "instructions_per_packet": 25.0, "vs_floor": 1.2, "spread_percent": 1.0}]})
    }

    #[test]
    fn a_report_becomes_one_page_with_a_plot_for_each_column_and_nothing_from_outside() {
        let page = page(&report(), None);
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("A &lt;fast&gt; one") && page.contains("a &amp; b"));
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn an_earlier_run_stands_beside_it() {
        let mut earlier = report();
        earlier["rows"][0]["cycles_per_packet"] = json!(17.0);
        let page = page(&report(), Some(&earlier));
        assert!(page.contains("Against the earlier run") && page.contains("class=better"));
    }

    #[test]
    fn a_report_of_another_bench_has_a_table_and_no_plot() {
        let lb = json!({"bench": "lb", "rows": [{"case": "x", "engine": "jit", "pps": 1}]});
        let page = page(&lb, None);
        assert!(!page.contains("<svg") && page.contains("<td>jit"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!((step(9.0), step(40.0), step(700.0)), (2.0, 10.0, 200.0));
    }
}
