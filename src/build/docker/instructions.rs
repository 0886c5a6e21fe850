//! Where in a Dockerfile a step stands, so that a failure can name the line. Only what that needs is read:
//! instructions with their lines (moby/buildkit, frontend/dockerfile/parser), by stage.

/// The instructions that are steps of their own, and so are counted in the names of steps
/// (moby/buildkit, frontend/dockerfile/dockerfile2llb/convert.go).
const STEPS: [&str; 4] = ["RUN", "COPY", "ADD", "WORKDIR"];

/// One `FROM` and what follows it.
#[derive(Debug, PartialEq, Eq)]
struct Stage {
    name: Option<String>,
    image: String,
    line: usize,
    steps: Vec<Instruction>,
}

#[derive(Debug, PartialEq, Eq)]
struct Instruction {
    keyword: String,
    /// From 1.
    line: usize,
}

/// The line, from 1, of the instruction that BuildKit calls `step`, such as `[build 2/3] RUN make`. `None` where
/// there is no telling, as for what a base image's `ONBUILD` brings in.
pub(super) fn line_of(dockerfile: &str, step: &str) -> Option<usize> {
    let stages = stages(dockerfile);
    let (prefix, text) = step.strip_prefix('[')?.split_once("] ")?;
    if let Some(image) = text.strip_prefix("load metadata for ") {
        return line_of_image(dockerfile, &stages, image);
    }
    let words: Vec<_> = prefix.split_ascii_whitespace().collect();
    let (count, before) = words.split_last()?;
    let (index, total) = count.split_once('/')?;
    let (index, total) = (index.parse::<usize>().ok()?, total.parse::<usize>().ok()?);
    // A platform may stand before the stage.
    let stage = match before.last() {
        None => stages.last()?,
        Some(name) => {
            stages
                .iter()
                .enumerate()
                .find(|(number, stage)| match &stage.name {
                    Some(own) => own.eq_ignore_ascii_case(name),
                    None => *name == format!("stage-{number}"),
                })?
                .1
        }
    };
    let keyword = text.split_ascii_whitespace().next()?;
    if keyword == "FROM" {
        return Some(stage.line);
    }
    // From the end: what comes from elsewhere, as FROM and ONBUILD, stands at the beginning.
    let instruction = stage.steps.iter().rev().nth(total.checked_sub(index)?)?;
    (instruction.keyword == keyword).then_some(instruction.line)
}

/// Whether an instruction has a here-document, or would have one for a newer front end.
pub(super) fn has_heredoc(dockerfile: &str) -> bool {
    instructions(dockerfile).iter().any(|(_, text)| !heredocs(text).is_empty())
}

/// What instructions name in the build context; `.` where all of it is meant, or where there is no telling.
pub(super) fn context_sources(dockerfile: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, text) in instructions(dockerfile) {
        let (keyword, rest) = text.split_once([' ', '\t']).unwrap_or((&text, ""));
        let mut rest = rest.trim_ascii_start();
        let mut flags = Vec::new();
        while rest.starts_with("--") {
            let (flag, after) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
            flags.push(flag);
            rest = after.trim_ascii_start();
        }
        match keyword.to_ascii_uppercase().as_str() {
            "COPY" | "ADD" if flags.iter().all(|flag| !flag.starts_with("--from=")) => {
                let mut names = match rest.starts_with('[') {
                    true => serde_json::from_str(rest).unwrap_or_else(|_| vec![".".to_owned(); 2]),
                    false => rest.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>(),
                };
                // Where to.
                names.pop();
                found.extend(
                    names.into_iter().filter(|name| !name.starts_with("<<") && !name.contains("://")),
                );
            }
            "RUN" => {
                let mounts = flags.iter().filter_map(|flag| flag.strip_prefix("--mount="));
                found.extend(mounts.filter_map(bound_source));
            }
            _ => {}
        }
    }
    found
}

/// What a mount binds of the context.
fn bound_source(mount: &str) -> Option<String> {
    let (mut kind, mut source) = ("bind", ".");
    for option in mount.split(',') {
        match option.trim_matches('"').split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("from", _)) => return None,
            Some(("source" | "src", value)) => source = value,
            _ => {}
        }
    }
    (kind == "bind").then(|| source.to_owned())
}

/// Where an image is named that is to be loaded: by `FROM`, by `--from=`, or by the only `FROM` whose arguments can
/// have made its name.
fn line_of_image(dockerfile: &str, stages: &[Stage], image: &str) -> Option<usize> {
    let named = stages.iter().find(|stage| is_same_image(&stage.image, image)).map(|stage| stage.line);
    let copied = || {
        let found = instructions(dockerfile).into_iter().find(|(_, text)| {
            let options = text.split([' ', ',']).map(|option| option.trim_start_matches("--mount="));
            let mut names =
                options.filter_map(|option| option.trim_start_matches("--").strip_prefix("from="));
            names.any(|name| is_same_image(name, image))
        });
        found.map(|(line, _)| line)
    };
    let made = || {
        let mut fitting = stages.iter().filter(|stage| can_become(&stage.image, image));
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first.line)
    };
    named.or_else(copied).or_else(made)
}

/// Whether some values of the arguments in it make a name this image's.
fn can_become(written: &str, image: &str) -> bool {
    let (mut literals, mut rest) = (Vec::new(), written);
    while let Some((before, after)) = rest.split_once('$') {
        literals.push(before);
        rest = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').map_or("", |(_, rest)| rest),
            None => after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_'),
        };
    }
    let has_arguments = !literals.is_empty();
    literals.push(rest);
    let found = literals.into_iter().try_fold(image, |rest, literal| Some(rest.split_once(literal)?.1));
    has_arguments && found.is_some()
}

/// Whether the engine's full name of an image is the Dockerfile's.
fn is_same_image(written: &str, full: &str) -> bool {
    let short = full.strip_prefix("docker.io/").unwrap_or(full);
    let official = short.strip_prefix("library/").unwrap_or(short);
    [full, short, official]
        .iter()
        .any(|name| *name == written || name.strip_suffix(":latest") == Some(written))
}

fn stages(dockerfile: &str) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (line, text) in instructions(dockerfile) {
        let mut words = text.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        if keyword == "FROM" {
            let words: Vec<_> = words.filter(|word| !word.starts_with("--")).collect();
            let name = match words.as_slice() {
                [_, is, name, ..] if is.eq_ignore_ascii_case("as") => Some((*name).to_owned()),
                _ => None,
            };
            let image = words.first().copied().unwrap_or_default().to_owned();
            stages.push(Stage { name, image, line, steps: Vec::new() });
        } else if let Some(stage) = stages.last_mut()
            && STEPS.contains(&keyword.as_str())
        {
            stage.steps.push(Instruction { keyword, line });
        }
    }
    stages
}

/// Every instruction with the line that it begins on, its continuation lines joined.
fn instructions(dockerfile: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let escape = escape(dockerfile);
    let mut lines = dockerfile.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim_ascii().is_empty() || line.trim_ascii_start().starts_with('#') {
            continue;
        }
        let mut text = line.trim_ascii().to_owned();
        while let Some(rest) = text.strip_suffix(escape) {
            text.truncate(rest.len());
            // Comments and empty lines within an instruction are none of it.
            let Some((_, next)) = lines.by_ref().find(|(_, next)| {
                let next = next.trim_ascii();
                !next.is_empty() && !next.starts_with('#')
            }) else {
                break;
            };
            text.push(' ');
            text.push_str(next.trim_ascii());
        }
        for (word, strips_tabs) in heredocs(&text) {
            for (_, line) in lines.by_ref() {
                let line = if strips_tabs { line.trim_start_matches('\t') } else { line };
                if line == word {
                    break;
                }
            }
        }
        found.push((number + 1, text));
    }
    found
}

/// The character that continues a line: of the directive `# escape=`, which stands before everything else.
fn escape(dockerfile: &str) -> char {
    let directives = dockerfile.lines().map_while(|line| {
        let (key, value) = line.trim_ascii().strip_prefix('#')?.split_once('=')?;
        Some((key.trim_ascii().to_ascii_lowercase(), value.trim_ascii().to_owned()))
    });
    let escape = directives.into_iter().find(|(key, _)| key == "escape");
    escape.and_then(|(_, value)| value.chars().next()).unwrap_or('\\')
}

/// The words that end the here-documents of an instruction, and whether tabs before them count.
fn heredocs(instruction: &str) -> Vec<(String, bool)> {
    let keyword = instruction.split_ascii_whitespace().next().unwrap_or_default();
    if !["RUN", "COPY", "ADD"].iter().any(|with| keyword.eq_ignore_ascii_case(with)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for word in instruction.split_ascii_whitespace().skip(1) {
        // A file descriptor may stand before it.
        let Some(rest) = word.trim_start_matches(|digit: char| digit.is_ascii_digit()).strip_prefix("<<")
        else {
            continue;
        };
        let (rest, strips_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
        let name = rest.trim_matches(['"', '\'']);
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || "_-.".contains(*c)).collect();
        if !name.is_empty() {
            found.push((name, strips_tabs));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERFILE: &str = "# syntax=docker/dockerfile:1\n\
        ARG BASE=x\n\
        FROM golang:1.22 AS build\n\
        WORKDIR /src\n\
        COPY . .\n\
        ENV A=b\n\
        RUN a && \\\n\
        # a comment\n\
        \n\
        \x20 b\n\
        RUN <<EOF\n\
        FROM nowhere\n\
        RUN not\n\
        EOF\n\
        \n\
        FROM alpine\n\
        copy --from=build /x /x\n\
        from build as again\n\
        RUN last\n";

    #[test]
    fn finds_the_line_of_a_step() {
        for (step, line) in [
            ("[build 1/5] FROM docker.io/library/golang:1.22@sha256:0123", Some(3)),
            ("[build 2/5] WORKDIR /src", Some(4)),
            ("[build 3/5] COPY . .", Some(5)),
            ("[build 4/5] RUN a &&   b", Some(7)),
            ("[build 5/5] RUN <<EOF (FROM nowhere...)", Some(11)),
            ("[linux/arm64 build 4/5] RUN a && b", Some(7)),
            ("[stage-1 2/2] COPY --from=build /x /x", Some(17)),
            ("[again 1/1] RUN last", Some(19)),
            ("[internal] load metadata for docker.io/library/golang:1.22", Some(3)),
            ("[internal] load metadata for docker.io/library/alpine:latest", Some(16)),
            // Out of a base image's ONBUILD: there are fewer of the stage's own.
            ("[again 1/3] RUN onbuild", None),
            ("[again 2/2] COPY other", None),
            ("[other 1/1] RUN x", None),
            ("[internal] load build context", None),
            ("exporting to image", None),
        ] {
            assert_eq!(line_of(DOCKERFILE, step), line, "{step}");
        }
    }

    #[test]
    fn an_image_is_found_where_it_can_come_from() {
        let dockerfile = "ARG BASE=a\nARG V=1\nFROM ${BASE} AS one\nFROM x/alpine:$V-slim\nFROM one\n\
            COPY --from=nginx:1 /a /\nRUN --mount=from=tools,type=bind true\n";
        for (image, line) in [
            ("docker.io/x/alpine:3-slim", None),
            ("docker.io/x/alpine:3", Some(3)),
            ("docker.io/library/nginx:1", Some(6)),
            ("docker.io/library/tools:latest", Some(7)),
        ] {
            let step = format!("[internal] load metadata for {image}");
            assert_eq!(line_of(dockerfile, &step), line, "{image}");
        }
        let only = dockerfile.replace("${BASE}", "scratch");
        let step = "[internal] load metadata for docker.io/x/alpine:3-slim";
        assert_eq!(line_of(&only, step), Some(4));
        let other = "[internal] load metadata for docker.io/library/other:latest";
        assert_eq!(line_of(&only, other), None);
    }

    #[test]
    fn a_single_stage_has_no_name() {
        let dockerfile = "# escape=`\nFROM a\nRUN x `\n  y\nRUN z";
        assert_eq!(line_of(dockerfile, "[2/3] RUN x   y"), Some(3));
        assert_eq!(line_of(dockerfile, "[3/3] RUN z"), Some(5));
        assert_eq!(line_of("", "[3/3] RUN z"), None);
        assert_eq!(line_of("RUN x \\", "[1/1] RUN x"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_read_and_any_line_is_in_it(
            dockerfile in r"((FROM|RUN|COPY|#|<<EOF|EOF|AS|\\|`| |a|\n)){0,40}",
            step in r"(\[|\]|internal|load metadata for |a|stage-0|FROM|RUN|COPY|[0-9]{1,3}|/| ){0,12}",
        ) {
            let lines = dockerfile.lines().count();
            proptest::prop_assert!(line_of(&dockerfile, &step).is_none_or(|line| (1..=lines).contains(&line)));
        }
    }
}
