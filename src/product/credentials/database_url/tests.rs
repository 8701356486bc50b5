use super::*;

fn parse(url: &str) -> Result<DatabaseUrl, UrlError> {
    DatabaseUrl::parse(&Secret::new(url))
}

#[test]
fn urls_are_split_as_sqlalchemy_splits_them() {
    // URL, then user, password, place, database.
    let cases = [
        (
            "postgresql+asyncpg://u:p@db:5433/trade",
            "u",
            "p",
            "db:5433",
            "trade",
        ),
        (" postgresql://u:p@db/trade\n", "u", "p", "db:5432", "trade"),
        ("postgres://u@db/trade", "u", "", "db:5432", "trade"),
        ("postgresql+asyncpg://u:p@db", "u", "p", "db:5432", "u"),
        (
            "postgresql+asyncpg://u:a%40b%2Fc@db/t",
            "u",
            "a@b/c",
            "db:5432",
            "t",
        ),
        (
            "postgresql+asyncpg://u:a/b?c#d:e@db/t",
            "u",
            "a/b?c#d:e",
            "db:5432",
            "t",
        ),
        (
            "postgresql+asyncpg://u@corp:p@db/t",
            "u@corp",
            "p",
            "db:5432",
            "t",
        ),
        ("postgresql+asyncpg://u:+%2B%20@db/t", "u", "++ ", "db:5432", "t"),
        ("postgresql+asyncpg://u:p@[::1]:5433/t", "u", "p", "::1:5433", "t"),
        ("postgresql+asyncpg://u:p@[::1]/t", "u", "p", "::1:5432", "t"),
        (
            "postgresql+asyncpg://u:p@/t?host=a:1&host=b:2",
            "u",
            "p",
            "a:1,b:2",
            "t",
        ),
        (
            "postgresql+asyncpg://u:p@/t?host=a,b&port=1,2",
            "u",
            "p",
            "a:1,b:2",
            "t",
        ),
        (
            "postgresql+asyncpg://u:p@/t?host=/run/pg",
            "u",
            "p",
            "/run/pg:5432",
            "t",
        ),
        (
            "postgresql+asyncpg://u:p@:5433/t",
            "u",
            "p",
            "localhost:5433",
            "t",
        ),
        ("postgresql+asyncpg://u:@db/t?timeout=5", "u", "", "db:5432", "t"),
    ];
    for (url, user, password, place, database) in cases {
        let parsed = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(parsed.user, user, "{url}");
        let known = parsed.password.as_ref().map_or("", |it| it.expose());
        assert_eq!(known, password, "{url}");
        assert_eq!(parsed.to_string(), format!("{place}/{database}"), "{url}");
    }
}

#[test]
fn encryption_is_chosen_by_asyncpgs_or_libpqs_option() {
    for (query, mode) in [
        ("", TlsMode::Prefer),
        ("?ssl=disable", TlsMode::Disable),
        ("?ssl=allow", TlsMode::Prefer),
        ("?ssl=require", TlsMode::Require),
        ("?sslmode=verify-ca", TlsMode::VerifyCa),
        (
            "?ssl=verify_full&prepared_statement_cache_size=0",
            TlsMode::VerifyFull,
        ),
    ] {
        assert_eq!(
            parse(&format!("postgresql+asyncpg://u:p@db/t{query}"))
                .unwrap()
                .tls,
            mode
        );
    }
    let parsed = parse("postgresql://u:p@db/t?sslrootcert=/ca.pem&target_session_attrs=primary").unwrap();
    assert_eq!(parsed.root_certificates, Some("/ca.pem".into()));
    assert_eq!(parsed.target, TargetSessionAttrs::ReadWrite);
}

#[test]
fn what_cannot_be_used_is_refused_without_showing_it() {
    for (url, reason) in [
        ("canary", UrlError::Scheme),
        ("mysql://canary:canary@db/t", UrlError::Scheme),
        ("postgresql+asyncpg://db/t", UrlError::User),
        ("postgresql+asyncpg://:canary@db/t", UrlError::User),
        ("postgresql+asyncpg://u:can@canary@db/t", UrlError::Host),
        ("postgresql+asyncpg://u:can@a?canary@db/t", UrlError::Host),
        ("postgresql+asyncpg://u:can@a/canary@db/t", UrlError::Host),
        ("postgresql+asyncpg://u:canary@db:canary/t", UrlError::Port),
        ("postgresql+asyncpg://u:canary@db:0/t", UrlError::Port),
        (
            "postgresql+asyncpg://u:canary@a/t?host=a,b&port=1,2,3",
            UrlError::Port,
        ),
        ("postgresql+asyncpg://u:%ffcanary@db/t", UrlError::Encoding),
        (
            "postgresql+asyncpg://u:p@db/t?options=canary",
            UrlError::Option("options".into()),
        ),
    ] {
        let error = parse(url).map(drop).unwrap_err();
        assert_eq!(error, reason, "{url}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    let error = parse("postgresql://u:p@db/t?ssl=canary").unwrap_err().to_string();
    assert!(
        error.contains("`ssl` must be one of") && !error.contains("canary"),
        "{error}"
    );
}

#[test]
fn printing_leaves_user_and_password_out() {
    let parsed = parse("postgresql+asyncpg://canary:canary@db/t?ssl=require").unwrap();
    assert_eq!(
        format!("{parsed} {parsed:?}"),
        "db:5432/t DatabaseUrl(db:5432/t, Require)"
    );
}

proptest::proptest! {
    #[test]
    fn no_url_panics(rest: String) {
        let _ = parse(&format!("postgresql+asyncpg://{rest}"));
    }
}
