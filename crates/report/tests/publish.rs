//! `unbraid report`: the right page for the given directories, and its figures as SVG files.
//!
//! Every file is parsed as XML and compared with the data of the page's figures: same figures, each series with marks.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

mod diagnosis_files;

use std::fs;
use std::path::{Path, PathBuf};

use diagnosis_files::{write_diagnosis, write_gram, write_heat_map, write_series};
use roxmltree::{Document, Node};
use serde_json::Value;
use unbraid_report::{ReportError, write_figures, write_report};

/// A run of `steps` steps with everything that can be recorded; `gap` names steps whose loss is not finite.
fn write_run(dir: &Path, steps: u32, gap: &[u32], name: &str) {
    fs::create_dir_all(dir).unwrap();
    let (mut metrics, mut gram, mut pairs) = (String::new(), String::new(), String::new());
    for step in 1..=steps {
        let t = f64::from(step) / f64::from(steps);
        let loss = if gap.contains(&step) {
            "null".to_string()
        } else {
            format!("{}", 0.7 - 0.3 * t)
        };
        metrics += &format!(
            "{{\"step\":{step},\"loss\":{loss},\"learning_rate\":{},\"grad_norm\":2,\"logps/chosen\":{},\"logps/rejected\":{},\
             \"rewards/chosen\":{},\"rewards/rejected\":{},\"rewards/margins\":{t},\"rewards/accuracies\":{t},\
             \"geometry/cosine\":0.9,\"geometry/inner\":3.6,\"geometry/grad_norm_chosen\":2,\"geometry/grad_norm_rejected\":3,\
             \"geometry/ideal\":0.2,\"geometry/both_fall\":0.7,\"geometry/both_rise\":0.1,\"geometry/predicted_chosen\":{t},\
             \"geometry/realised_chosen\":{t},\"geometry/predicted_rejected\":{t},\"geometry/realised_rejected\":{t}}}\n",
            1e-6 * t,
            -50.0 - t,
            -60.0 - 2.0 * t,
            -t,
            -2.0 * t
        );
        gram += &format!(
            "{{\"step\":{step},\"split\":[{{\"response\":\"0/chosen\",\"own\":0.1,\"partner\":-0.3,\"others\":-0.1}},\
             {{\"response\":\"0/rejected\",\"own\":-0.2,\"partner\":0.1,\"others\":0}}]}}\n"
        );
        pairs += &format!(
            "{{\"step\":{step},\"index\":0,\"predicted_chosen\":{t},\"update_chosen\":{t},\"realised_chosen\":{t},\
             \"predicted_rejected\":-{t},\"update_rejected\":-{t},\"realised_rejected\":-{t}}}\n"
        );
    }
    fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
    fs::write(dir.join("gram.jsonl"), gram).unwrap();
    fs::write(dir.join("predictions.jsonl"), pairs).unwrap();
    fs::write(
        dir.join("run.yaml"),
        format!("run_name: '{name}'\ncommand: unbraid train '<a> & b'\n"),
    )
    .unwrap();
}

/// The figures of a page as its scripts read them.
fn figures(html: &str) -> Vec<Value> {
    let start = "<script type=\"application/json\" id=\"figures\">";
    let data = html
        .split_once(start)
        .unwrap()
        .1
        .split_once("</script>")
        .unwrap()
        .0;
    serde_json::from_str(data).unwrap()
}

fn class<'a>(document: &'a Document<'_>, class: &str) -> Vec<Node<'a, 'a>> {
    document
        .descendants()
        .filter(|node| node.attribute("class") == Some(class))
        .collect()
}

/// Elements that are drawn inside a node.
fn drawn(node: Node<'_, '_>) -> usize {
    node.descendants()
        .filter(|node| ["path", "rect"].contains(&node.tag_name().name()))
        .count()
}

/// Writes page and drawings, checks each drawing against the page, and gives the drawings' text by file name.
fn checked(dirs: &[PathBuf], out: &Path) -> Vec<(String, String)> {
    fs::create_dir_all(out).unwrap();
    let page = fs::read_to_string(write_report(dirs, Some(out)).unwrap()).unwrap();
    let files = write_figures(dirs, Some(&out.join("drawings"))).unwrap();
    let figures = figures(&page);
    let panels = figures.iter().flat_map(|figure| {
        let panels = figure["panels"].as_array().unwrap();
        panels
            .iter()
            .map(|panel| (figure["id"].as_str().unwrap(), panel))
    });
    let panels: Vec<(&str, &Value)> = panels.collect();
    assert_eq!(files.len(), panels.len(), "a file for each panel");
    let mut texts = Vec::new();
    for (file, (id, panel)) in files.iter().zip(panels) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name.starts_with(&format!("{id}-")) && name.ends_with(".svg"),
            "{name}"
        );
        let text = fs::read_to_string(file).unwrap();
        let document = Document::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(&name, &document, panel);
        texts.push((name, text.clone()));
    }
    texts
}

fn check(name: &str, document: &Document<'_>, panel: &Value) {
    let root = document.root_element();
    assert!(
        root.attribute("font-family")
            .unwrap()
            .ends_with("sans-serif")
    );
    let ground = root
        .children()
        .find(|node| node.tag_name().name() == "rect")
        .unwrap();
    assert_eq!(ground.attribute("fill"), Some("#ffffff"), "{name}");
    let series = panel["series"].as_array().unwrap();
    let groups = class(document, "series");
    if panel["kind"] == "heatmap" {
        assert!(drawn(groups[0]) > 3, "{name} has no cells");
    } else {
        assert_eq!(groups.len(), series.len(), "{name}");
        for (group, series) in groups.iter().zip(series) {
            let title = group
                .children()
                .find(|node| node.tag_name().name() == "title")
                .unwrap();
            assert_eq!(title.text(), series["name"].as_str(), "{name}");
            assert!(
                drawn(*group) > 0,
                "{name}: nothing of {} is drawn",
                series["name"]
            );
        }
        for axis in [&panel["x_label"], &panel["y_label"]] {
            let words: Vec<&str> = axis.as_str().unwrap().split_whitespace().collect();
            let texts: String = document
                .descendants()
                .filter_map(|node| node.text())
                .collect::<Vec<_>>()
                .join(" ");
            assert!(
                words.iter().all(|word| texts.contains(word)),
                "{name} lacks {axis}"
            );
        }
    }
    for node in document.descendants().filter(Node::is_element) {
        let known = ["svg", "title", "desc", "g", "path", "rect", "line", "text"];
        assert!(
            known.contains(&node.tag_name().name()),
            "{name}: {:?}",
            node.tag_name()
        );
        for attribute in node.attributes() {
            assert!(
                !attribute.value().contains("NaN") && !attribute.value().contains("inf"),
                "{name}: {attribute:?}"
            );
            assert!(
                !attribute.name().starts_with("on") && !attribute.value().contains("url("),
                "{name}: {attribute:?}"
            );
        }
    }
}

fn named<'a>(texts: &'a [(String, String)], name: &str) -> &'a str {
    &texts
        .iter()
        .find(|(known, _)| known == name)
        .unwrap_or_else(|| panic!("no {name}"))
        .1
}

#[test]
fn all_figures_of_a_run_are_drawn_and_text_is_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_run(&run, 12, &[], "a");
    let texts = checked(&[run], &dir.path().join("out"));
    let document = Document::parse(named(&texts, "log-probs-chosen-and-rejected.svg")).unwrap();
    let described = document
        .descendants()
        .find(|node| node.tag_name().name() == "desc")
        .unwrap();
    assert!(
        described
            .text()
            .unwrap()
            .ends_with("Made by: unbraid train '<a> & b'")
    );
    let words: Vec<&str> = document
        .descendants()
        .filter_map(|node| node.text())
        .collect();
    for word in [
        "optimizer step",
        "log-prob of a completion, nats",
        "chosen",
        "rejected",
        "−50",
    ] {
        assert!(words.contains(&word), "{word}: {words:?}");
    }
    for name in [
        "gram-sums-sum-over-the-measured-steps.svg",
        "gram-steps-chosen.svg",
        "predictions-plain-gradient-step.svg",
    ] {
        named(&texts, name);
    }
}

#[test]
fn lines_of_a_panel_are_told_apart_by_their_dashes() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_run(&run, 12, &[], "a");
    let texts = checked(&[run], &dir.path().join("out"));
    let document = Document::parse(named(&texts, "gram-steps-chosen.svg")).unwrap();
    let lines = class(&document, "series").into_iter().map(|group| {
        let line = group
            .descendants()
            .find(|node| node.attribute("stroke-width") == Some("1.8"))
            .unwrap();
        line.attribute("stroke-dasharray").unwrap_or("")
    });
    let mut dashes: Vec<&str> = lines.collect();
    assert_eq!(dashes.len(), 4);
    dashes.sort_unstable();
    dashes.dedup();
    assert_eq!(dashes.len(), 4);
}

#[test]
fn a_value_that_is_not_finite_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // 1–4 a line, 6 alone, 8–12 a line.
    write_run(&run, 12, &[5, 7], "a");
    let texts = checked(&[run], &dir.path().join("out"));
    let document = Document::parse(named(&texts, "learning-loss.svg")).unwrap();
    let group = class(&document, "series")[0];
    let line = group
        .descendants()
        .find(|node| node.attribute("stroke-width") == Some("1.8"))
        .unwrap();
    let d = line.attribute("d").unwrap();
    assert_eq!((d.matches('M').count(), d.matches('L').count()), (2, 3 + 4));
    let marks = group
        .descendants()
        .filter(|node| node.attribute("d").is_some())
        .count()
        - 1;
    assert_eq!(marks, 10, "a mark for each finite value");
}

#[test]
fn a_long_run_is_drawn_without_marks() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write_run(&run, 500, &[250], "a");
    let texts = checked(&[run], &dir.path().join("out"));
    let text = named(&texts, "log-probs-chosen-and-rejected.svg");
    assert!(text.len() < 100_000, "{}", text.len());
    let document = Document::parse(text).unwrap();
    // Raw values and their mean.
    assert_eq!(drawn(class(&document, "series")[0]), 2);
}

#[test]
fn runs_are_compared_and_names_that_look_like_markup_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_run(&a, 12, &[], "<b>&\"x</script>");
    write_run(&b, 20, &[], "other");
    let texts = checked(&[a, b], &dir.path().join("out"));
    let document = Document::parse(named(
        &texts,
        "ends-change-of-the-log-prob-from-start-to-end.svg",
    ))
    .unwrap();
    let words: Vec<&str> = document
        .descendants()
        .filter_map(|node| node.text())
        .collect();
    assert!(words.contains(&"<b>&\"x</script>"), "{words:?}");
}

#[test]
fn a_diagnosis_is_drawn_with_its_map_and_token_maps() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    write_diagnosis(&one, 40, 12);
    write_heat_map(&one, 1, 9);
    write_gram(&one);
    let texts = checked(std::slice::from_ref(&one), &dir.path().join("out"));
    let cells =
        |name: &str| drawn(class(&Document::parse(named(&texts, name)).unwrap(), "series")[0]);
    let map = texts
        .iter()
        .find(|(name, _)| name.starts_with("tokens-1-chosen"))
        .unwrap();
    assert!(cells(&map.0) >= 81, "{}", cells(&map.0));
    assert!(texts.iter().any(|(name, _)| name.starts_with("map-")));
    // By default the drawings stand in the diagnosis itself.
    let files = write_figures(std::slice::from_ref(&one), None).unwrap();
    assert!(
        files
            .iter()
            .all(|file| file.starts_with(one.join("figures")))
    );
    let page = write_report(std::slice::from_ref(&one), None).unwrap();
    assert_eq!(page, one.join("report.html"));
}

#[test]
fn a_series_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let series = dir.path().join("series");
    write_series(&series);
    let texts = checked(&[series], &dir.path().join("out"));
    assert!(texts.iter().any(|(name, _)| name == "geometry-cosine.svg"));
}

#[test]
fn diagnoses_are_compared_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_diagnosis(&a, 40, 12);
    write_diagnosis(&b, 60, 12);
    let out = dir.path().join("out");
    let texts = checked(&[a.clone(), b], &out);
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(html.contains("<title>2 diagnoses compared"));
    let figures = figures(&html);
    let ids: Vec<&str> = figures
        .iter()
        .map(|figure| figure["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["cosines", "cases", "what-if", "groups"]);
    // The medians are those of the rows.
    let rows = fs::read_to_string(a.join("geometry.jsonl")).unwrap();
    let mut cosines: Vec<f64> = rows
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["grad_cosine"]
                .as_f64()
                .unwrap()
        })
        .collect();
    cosines.sort_by(f64::total_cmp);
    let median = (cosines[19] + cosines[20]) / 2.0;
    let csv = figures[0]["csv"].as_str().unwrap();
    let line = csv
        .lines()
        .find(|line| line.starts_with("a,median,"))
        .unwrap();
    let written: f64 = line.split(',').nth(2).unwrap().parse().unwrap();
    assert!(
        (written - median).abs() < 1e-6 * median.abs(),
        "{written} {median}"
    );
    let cases = figures[1]["csv"].as_str().unwrap();
    for line in cases.lines().skip(1) {
        let shares: f64 = line
            .split(',')
            .skip(2)
            .map(|cell| cell.parse::<f64>().unwrap())
            .sum();
        assert!((shares - 1.0).abs() < 1e-5, "{line}");
    }
    assert!(texts.iter().any(|(name, _)| name == "groups-by-layer.svg"));
}

#[test]
fn a_diagnosis_without_gradients_takes_no_figure_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, cheap] = ["a", "b", "cheap"].map(|name| dir.path().join(name));
    write_diagnosis(&a, 20, 12);
    write_diagnosis(&b, 20, 12);
    fs::create_dir(&cheap).unwrap();
    fs::write(cheap.join("proxies.jsonl"), "{\"index\":0,\"ches\":1.0}\n").unwrap();
    fs::write(cheap.join("summary.json"), "{}").unwrap();
    // A directory that is not there yet is made.
    let out = dir.path().join("new/place");
    let path = write_report(&[a, b, cheap], Some(&out)).unwrap();
    let html = fs::read_to_string(path).unwrap();
    let figures = figures(&html);
    let what_if = figures.iter().find(|figure| figure["id"] == "what-if");
    let series = &what_if.unwrap()["panels"][0]["series"];
    assert_eq!(
        series.as_array().unwrap().len(),
        2,
        "one for each with gradients"
    );
}

#[test]
fn what_cannot_be_compared_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_run(&at("run"), 12, &[], "a");
    write_diagnosis(&at("diagnosis"), 5, 12);
    write_series(&at("series"));
    let error = |names: &[&str]| {
        let dirs: Vec<PathBuf> = names.iter().map(|name| at(name)).collect();
        write_report(&dirs, Some(dir.path())).unwrap_err()
    };
    let mixed = error(&["diagnosis", "run"]);
    assert!(matches!(&mixed, ReportError::Mixed { run, .. } if run.ends_with("run")));
    assert!(
        mixed
            .to_string()
            .contains("hint: give either runs or diagnoses")
    );
    assert!(matches!(
        error(&["diagnosis", "series"]),
        ReportError::SeriesToCompare { .. }
    ));
    assert!(
        matches!(error(&["diagnosis", "absent"]), ReportError::NotARun { dir } if dir.ends_with("absent"))
    );
    assert!(matches!(error(&[]), ReportError::NoRuns));
}
