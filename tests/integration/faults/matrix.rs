//! The table of ARCHITECTURE.md that says which test proves which row of the fault matrix.

use std::path::Path;

use crate::support::grid::files;

/// The rows of the table under "The fault matrix", as their cells.
fn rows() -> Vec<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("## The fault matrix").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

#[test]
fn every_row_of_the_fault_matrix_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<String> = files(&root.join("tests"))
        .into_iter()
        .chain(files(&root.join("src")))
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let numbers: Vec<String> = rows().iter().map(|row| row[0].clone()).collect();
    let expected: Vec<String> = (1..=24).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected, "one row for each fault");
    for row in rows() {
        let tests: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || row[2].starts_with("none:"), "row {}: {}", row[0], row[2]);
        for test in tests {
            let is_there = sources.iter().any(|source| source.contains(&format!("fn {test}(")));
            assert!(is_there, "row {} names {test}, which is no test", row[0]);
        }
    }
}
