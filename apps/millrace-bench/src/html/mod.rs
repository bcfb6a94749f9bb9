//! Reports as one HTML file that needs nothing else: plots as inline SVG, tables, machine, method.

mod parts;
mod plot;
mod sections;

use crate::BenchError;
use crate::compare::{Change, changes, fields};
use plot::escape;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

const STYLE: &str = "
:root{--ink:#1b2330;--soft:#5c6778;--line:#dfe4ea;--paper:#fff;--wash:#f5f7f9;--mark:#c4611c;--better:#1f7a4d;--worse:#b3261e;
--s0:#2563b8;--s1:#93a4b8;--s2:#7b4fb5;--s3:#1f8a78;--s4:#c79a1e;--s5:#b5456b;--s6:#5b7d2a}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#313a47;--paper:#161b22;--wash:#1d242d;--mark:#e8935a;--better:#5cc48d;--worse:#f08a80;
--s0:#6aa5f0;--s1:#6d7c8f;--s2:#b08ee6;--s3:#4fc2ac;--s4:#e0bd5a;--s5:#e07a9d;--s6:#a3c76a}}
body{margin:0 auto;max-width:1000px;padding:2.2em 1.4em;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5em;margin:0}h2{font-size:1.25em;margin:2em 0 .2em;border-bottom:1px solid var(--line);padding-bottom:.2em}h3{font-size:1.02em;margin:1.8em 0 .4em}
small{color:var(--soft);font-weight:400;font-size:.85em}p.sub{color:var(--soft);margin:.2em 0 0}a{color:var(--s0)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:1.2em 1.6em}
figure{margin:0}figure.wide{max-width:920px}figcaption{font-weight:600;margin-bottom:.3em}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg .value{fill:var(--ink);font-size:10.5px}svg .on{fill:#fff;font-size:10px}
.key{display:flex;flex-wrap:wrap;gap:.3em 1.3em;color:var(--soft);font-size:.9em;margin:.3em 0 .9em}.key i{display:inline-block;width:.95em;height:.95em;margin-right:.4em;vertical-align:-.12em;border-radius:2px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.86em}th{text-align:left;color:var(--soft);font-weight:600;background:var(--wash)}
th,td{padding:.3em .5em;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}td.about{white-space:nowrap;color:var(--soft)}td.better{color:var(--better)}td.worse{color:var(--worse)}
ul{padding-left:1.2em;color:var(--soft)}code{font-size:.92em}";

/// Writes a report to a file, beside an earlier one if there is one.
pub fn write(file: &Path, report: &Value, earlier: Option<&Value>) -> Result<(), BenchError> {
    store(file, page(&[report], earlier))
}

/// Writes several reports to one file, a section each.
pub fn write_all(file: &Path, reports: &[Value]) -> Result<(), BenchError> {
    store(file, page(&reports.iter().collect::<Vec<_>>(), None))
}

fn store(file: &Path, page: String) -> Result<(), BenchError> {
    std::fs::write(file, page).map_err(|source| BenchError::File {
        path: file.to_owned(),
        source,
    })
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => "–".to_owned(),
        Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            if value.abs() >= 10.0 {
                return format!("{value:.1}");
            }
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        other => escape(&other.to_string()),
    }
}

/// The machine of a report, in a line.
fn machine(report: &Value) -> String {
    let machine = &report["machine"];
    format!(
        "{cpu}, {ghz} GHz measured, {cpus} CPUs, Linux {kernel}",
        cpu = words(&machine["cpu"]),
        ghz = words(&machine["gigahertz"]),
        cpus = words(&machine["cpus"]),
        kernel = words(&machine["kernel"]),
    )
}

/// What a bench is about, for those who see its name for the first time.
fn about(bench: &str) -> &'static str {
    match bench {
        "path" => "the driver's receive and transmit path alone, on rings built by hand",
        "wire" => "two ports with a cable between, as in RFC 2544",
        "scale" => "the path on several queues, with a worker each",
        "lb" => "the load balancer's data plane on one core",
        "ebpf" => "programs on each engine",
        "anatomy" => "what each part of forwarding costs, told by leaving it out",
        "memory" => "loads that wait for one another: what caches, pages and memory cost",
        _ => "",
    }
}

fn page(reports: &[&Value], earlier: Option<&Value>) -> String {
    let title = match reports {
        [one] => format!("millrace-bench {}", words(&one["bench"])),
        _ => "millrace-bench".to_owned(),
    };
    let first = reports.first().map(|report| machine(report)).unwrap_or_default();
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p class=sub>{first}</p>"
    );
    if reports.len() > 1 {
        page.push_str("<p class=sub>");
        for report in reports {
            let bench = words(&report["bench"]);
            let _ = write!(page, "<a href=#{bench}>{bench}</a> ");
        }
        page.push_str("</p>");
    }
    for report in reports {
        let bench = report["bench"].as_str().unwrap_or_default();
        let _ = match reports.len() {
            1 => write!(page, "<p class=sub>{}</p>", about(bench)),
            _ => write!(
                page,
                "<h2 id={bench}>{bench}<small> {about}</small></h2>",
                bench = escape(bench),
                about = about(bench)
            ),
        };
        let own = machine(report);
        if own != first {
            let _ = write!(page, "<p class=sub>{own}</p>");
        }
        page.push_str(&section(report, bench, earlier.filter(|_| reports.len() == 1)));
    }
    page.push_str("</html>\n");
    page
}

fn section(report: &Value, bench: &str, earlier: Option<&Value>) -> String {
    let rows: Vec<&Value> = report["rows"].as_array().into_iter().flatten().collect();
    let mut html = sections::plots(bench, &rows);
    if let Some(earlier) = earlier {
        html.push_str(&comparison(&changes(earlier, report)));
    }
    let _ = write!(
        html,
        "<h3>Rows</h3>{}<h3>Method and limits</h3><ul>",
        table(&rows)
    );
    for note in report["notes"].as_array().into_iter().flatten() {
        // What stands between backticks is to be typed.
        for (i, part) in words(note).split('`').enumerate() {
            html.push_str(match i {
                0 => "<li>",
                _ if i % 2 == 1 => "<code>",
                _ => "</code>",
            });
            html.push_str(part);
        }
    }
    html.push_str("</ul>");
    html
}

fn comparison(changes: &[Change]) -> String {
    let mut html = "<h3>Against the earlier run</h3><table><tr><th>row<th><th class=n>before<th class=n>after<th class=n>change\
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
    let mut columns: Vec<&str> = Vec::new();
    for (key, value) in rows.iter().flat_map(|row| fields(row)) {
        if !value.is_array() && !columns.contains(&key) {
            columns.push(key);
        }
    }
    // A column in which nothing stands says nothing.
    let empty = |value: &Value| value.is_null() || value.as_str() == Some("");
    columns.retain(|key| rows.iter().any(|row| !empty(&row[*key])));
    // Sentences stand last, in one line each.
    columns.sort_by_key(|key| *key == "about");
    let class = |key: &str| match key {
        "about" => " class=about",
        _ if rows.iter().any(|row| row[key].is_number()) => " class=n",
        _ => "",
    };
    // A column's numbers have as many digits as its largest needs, ratios two at least: most are about 1.
    let digits = |key: &str| {
        let values = || {
            rows.iter()
                .filter_map(|row| row[key].as_f64().filter(|_| row[key].is_f64()))
        };
        let most = values().fold(0.0, |most: f64, value| most.max(value.abs()));
        values().next().map(|_| match most {
            _ if key.starts_with("vs_") && !key.ends_with("_percent") => 2,
            most if most >= 10.0 => 1,
            most if most >= 0.1 => 2,
            _ => 4,
        })
    };
    let digits: Vec<Option<usize>> = columns.iter().map(|key| digits(key)).collect();
    let mut html = "<div class=scroll><table><tr>".to_owned();
    for key in &columns {
        let _ = write!(html, "<th{}>{}", class(key), escape(&key.replace('_', " ")));
    }
    for row in rows {
        html.push_str("<tr>");
        for (key, digits) in columns.iter().zip(&digits) {
            let text = match (row[*key].as_f64(), digits) {
                (Some(value), Some(digits)) => format!("{value:.digits$}"),
                _ => words(&row[*key]).replace('_', " "),
            };
            let _ = write!(html, "<td{}>{text}", class(key));
        }
    }
    html.push_str("</table></div>");
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
    fn ratios_keep_two_digits_beside_large_ones() {
        let row = |case: &str, ns: f64, ratio: f64| json!({"case": case, "ns": ns, "vs_kernel": ratio});
        let rows = [row("jit", 12.34, 0.347), row("rbpf-interp", 900.0, 30.75)];
        let html = table(&rows.iter().collect::<Vec<_>>());
        for cell in ["0.35<", "30.75<", "12.3<", "900.0<"] {
            assert!(html.contains(cell), "{cell} in {html}");
        }
    }

    #[test]
    fn a_report_becomes_one_page_with_a_plot_for_each_column_and_nothing_from_outside() {
        let page = page(&[&report()], None);
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("A &lt;fast&gt; one") && page.contains("a &amp; b"));
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn an_earlier_run_stands_beside_it() {
        let mut earlier = report();
        earlier["rows"][0]["cycles_per_packet"] = json!(17.0);
        let page = page(&[&report()], Some(&earlier));
        assert!(page.contains("Against the earlier run") && page.contains("class=better"));
    }

    #[test]
    fn programs_are_plotted_by_machine_code_entry_and_interpreter() {
        let row = |engine: &str, column: &str| json!({"case": "parse_count", "engine": engine, "ns": 5.0, column: 7.0});
        let ebpf = json!({"bench": "ebpf", "rows": [row("jit", "batch_ns"), row("kernel", "single_ns"),
            row("interp", "ns_per_instruction")]});
        let page = page(&[&ebpf], None);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("64 frames a call") && page.contains("nanoseconds a BPF instruction"));
        let machine_code = page.split("<h3>").find(|part| part.starts_with("Machine code"));
        assert_eq!(machine_code.map(|part| part.matches("<rect").count()), Some(2));
    }

    #[test]
    fn a_report_of_another_bench_has_a_table_and_no_plot() {
        let lb = json!({"bench": "lb", "rows": [{"case": "x", "engine": "jit", "pps": 1}]});
        let page = page(&[&lb], None);
        assert!(!page.contains("<svg") && page.contains("<td>jit"));
    }
}
