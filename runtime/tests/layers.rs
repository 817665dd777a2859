//! The floors of this crate: whatever a module imports of another one stands below it. ARCHITECTURE.md says what each is for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All modules, from top to bottom. Those of one floor don't know each other.
const FLOORS: &[&[&str]] = &[
    &["app"],
    &["embedded"],
    &["server"],
    &["forward"],
    &["metrics"],
    &["read"],
    &["watch", "lease"],
    &["streams"],
    &["upstream"],
    &["grpc", "keepalive"],
    &["transport", "tls"],
    &["process"],
    &["cli"],
    &["listen", "machine", "conformance"],
    &["shown", "shutdown"],
    &["rt"],
    &["settings", "logging"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

#[test]
fn arrows_run_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    find(&src, &mut files);
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for file in files {
        let inside = file.strip_prefix(&src).expect("it was found there");
        let name = inside.iter().next().expect("a file has a name");
        let module = name
            .to_str()
            .expect("modules have ASCII names")
            .trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("sources can be read");
        let is_root = inside.components().count() == 1
            || inside.ends_with("mod.rs") && inside.components().count() == 2;
        for (number, line) in text.lines().enumerate() {
            let mut complain = |what: &str| {
                wrong.push(format!(
                    "src/{}:{}: {what}: {}",
                    inside.display(),
                    number + 1,
                    line.trim()
                ));
            };
            let code = line.split("//").next().unwrap_or_default();
            if is_root && code.starts_with("use super::") {
                complain("another module is named by `super`, where this test doesn't see it");
            }
            for other in code.split("crate::").skip(1) {
                let other: String = other
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                arrows += 1;
                match (floor(module), floor(&other)) {
                    _ if other == module => {}
                    (Some(this), Some(that)) if this < that => {}
                    (Some(_), Some(_)) => complain(&format!("{module} stands below {other}, or beside it")),
                    (None, _) => complain(&format!("{module} has no floor")),
                    (_, None) => complain("what is imported isn't a module with a floor"),
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that don't run down:\n{}",
        wrong.join("\n")
    );
    assert!(arrows > 100, "there are more arrows than {arrows}");
}

#[test]
fn each_module_has_a_floor_and_each_floor_a_row_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = fs::read_to_string(root.join("src/lib.rs")).expect("it can be read");
    let declared: BTreeSet<_> = lib
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ")
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .collect();
    let listed: BTreeSet<_> = FLOORS.iter().flat_map(|floor| floor.iter().copied()).collect();
    assert_eq!(declared, listed);

    let architecture = fs::read_to_string(root.join("../ARCHITECTURE.md")).expect("it can be read");
    let mut rest = architecture.as_str();
    for floor in FLOORS {
        let row = format!("\n| `{}` |", floor.join("`, `"));
        let at = rest.find(&row);
        rest = &rest[at.unwrap_or_else(|| panic!("{row:?} stands below the floor before it"))..];
    }
}

/// All source files in a folder and in those in it.
fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("it can be looked at").path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
