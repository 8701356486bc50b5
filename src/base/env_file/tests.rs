use super::*;

/// The environment of all cases.
fn environment() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("OUTSIDE", "out"), ("BOTH", "outer"), ("BLANK", "")])
}

/// Each text sets `A`, in docker compose and here, to the value beside it.
#[test]
fn a_value_is_what_docker_compose_makes_of_it() {
    for (text, value) in [
        // Plain.
        ("A=redis://redis:6379/0", "redis://redis:6379/0"),
        ("A=", ""),
        ("A = padded \t", "padded"),
        ("  export A=1", "1"),
        ("export\tA=1", "1"),
        ("A: yaml", "yaml"),
        ("A=a=b==", "a=b=="),
        ("A=several words", "several words"),
        ("A=Trade Bot <bot@example.com>", "Trade Bot <bot@example.com>"),
        ("A=it's \"so\"", "it's \"so\""),
        ("A=a\\nb", "a\\nb"),
        ("B=1\r\nA=windows\r\n", "windows"),
        ("\u{feff}A=bom", "bom"),
        ("# remark\n\n \t# another = one\nA=1", "1"),
        ("A=1\nA=2", "2"),
        ("a.b-c[0]=1\nA=1", "1"),
        // Remarks.
        ("A=1 # remark", "1"),
        ("A=a#b", "a#b"),
        ("A=a\t# tab", "a\t# tab"),
        ("A= # remark", "# remark"),
        ("A=\"\" # remark", ""),
        ("A='a # b' # remark", "a # b"),
        // Quotes and escapes.
        ("A=\"two\nlines\"\nB=1", "two\nlines"),
        ("A='-----BEGIN\nKEY-----'", "-----BEGIN\nKEY-----"),
        (r#"A="a\tb\n\"c\"\\d""#, "a\tb\n\"c\"\\d"),
        (r#"A="\d\x""#, "\\d\\x"),
        (r"A='let\'s \n'", "let's \\n"),
        (r#"A='"'"#, "\""),
        (r#"A="a\$BOTH""#, "a$BOTH"),
        ("A='$BOTH ${BOTH}'", "$BOTH ${BOTH}"),
        // References.
        ("B=1\nA=$B/${B}x", "1/1x"),
        ("B=1\nA=\"$B\"", "1"),
        ("A=$OUTSIDE", "out"),
        ("BOTH=inner\nA=$BOTH", "outer"),
        ("A=[$NOTHING]", "[]"),
        ("A=$$BOTH and 5$ or $5", "$BOTH and 5$ or $5"),
        ("A=a\\$BOTH", "a\\outer"),
        ("A=${NOTHING:-x y}", "x y"),
        ("A=${NOTHING-x}", "x"),
        ("A=${BLANK:-x}", "x"),
        ("A=[${BLANK-x}]", "[]"),
        ("A=${BOTH:-x}", "outer"),
        ("A=${BOTH:+x}${NOTHING:+y}[${BLANK:+z}]${BLANK+w}", "x[]w"),
        ("A=${BOTH:?must be set}", "outer"),
        ("A=[${BLANK?must be set}]", "[]"),
        (
            "A=redis://:${PW:-a:b@c}@${HOST:-redis}:6379/0",
            "redis://:a:b@c@redis:6379/0",
        ),
        ("A=${NOTHING:-${NEITHER:-$BOTH}}/${OUTSIDE}", "outer/out"),
        ("A=${NOTHING:-}", ""),
        ("A=${NOTHING:-a$$b}", "a$b"),
    ] {
        let file = EnvFile::parse(text, &environment());
        let file = file.unwrap_or_else(|(line, mistake)| panic!("{text:?}: line {line}, {mistake}"));
        assert_eq!(file.get("A").as_deref(), Some(value), "{text:?}");
    }
}

#[test]
fn a_name_alone_takes_the_environments_value() {
    let file = EnvFile::parse("OUTSIDE\nNOTHING\nexport BOTH", &environment());
    let file = file.unwrap_or_else(|(line, mistake)| panic!("line {line}, {mistake}"));
    assert_eq!(file.names(), ["BOTH", "OUTSIDE"]);
    assert_eq!(file.get("OUTSIDE").as_deref(), Some("out"));
}

#[test]
fn a_mistake_has_its_line_and_never_a_value() {
    let reference = "`$$` for a plain dollar sign";
    let doubling: String = (0..30).map(|n| format!("A{}=$A{n}$A{n}\n", n + 1)).collect();
    let doubling = format!("A0=canary\n{doubling}");
    let nested = format!("A={}canary{}", "${N:-".repeat(10_000), "}".repeat(10_000));
    for (text, line, part) in [
        ("A=1\n\nthis is canary", 3, "it is not `NAME=value`"),
        ("=canary", 1, "it is not `NAME=value`"),
        ("A=1\r\ncan$ary=1", 2, "it is not `NAME=value`"),
        (
            "A='1\n2'\nB=\"canary\nC=1",
            3,
            "the value of B begins with \" and has no closing one",
        ),
        (
            "A='canary\\'",
            1,
            "the value of A begins with ' and has no closing one",
        ),
        ("\nA=\"canary\" canary", 2, "A has text after the closing quote"),
        ("A=${canary", 1, reference),
        ("A=${}canary", 1, reference),
        ("A=${B/canary/b}", 1, reference),
        ("A=${B:canary}", 1, reference),
        (nested.as_str(), 1, reference),
        ("A=1\nB=${NEEDED:?canary}", 2, "B needs NEEDED, which is not set"),
        ("A=${BLANK:?canary}", 1, "A needs BLANK"),
        ("A=canary\0", 1, "a NUL character"),
        (doubling.as_str(), 18, "exceed 1 MiB"),
    ] {
        let (at, mistake) = EnvFile::parse(text, &environment()).err().expect("a mistake");
        let said = mistake.to_string();
        assert!(
            said.contains(part) && !said.contains("canary"),
            "{text:.80?}: {said}"
        );
        assert_eq!(at, line, "{text:.80?}: {said}");
    }
}

#[test]
fn a_file_is_named_if_it_cannot_be_read() {
    let error = |path: &Path| EnvFile::read(path, &environment()).err().expect("an error");
    let missing = error(Path::new("/nowhere/.env"));
    assert_eq!(missing.to_string(), "cannot read the env file /nowhere/.env");
    let folder = error(Path::new("/"));
    assert_eq!(folder.to_string(), "cannot read the env file /");
}

#[test]
fn the_option_is_taken_out_of_the_arguments() {
    let left = |line: &str| {
        let left = without_env_file(line.split(' ').map(OsString::from));
        let left: Vec<String> = left
            .into_iter()
            .filter_map(|arg| arg.into_string().ok())
            .collect();
        left.join(" ")
    };
    assert_eq!(left("worker --env-file .env -c 2"), "worker -c 2");
    assert_eq!(left("--env-file=.env worker"), "worker");
    assert_eq!(
        left("parked drop -- --env-file .env"),
        "parked drop -- --env-file .env"
    );
    assert_eq!(left("worker --env-file"), "worker");
}
