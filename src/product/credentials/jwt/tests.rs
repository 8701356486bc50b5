use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use tradebot_base::clock::{Clock, SystemClock};

const KEY: &str = "a key of the tests, long enough for all three";

fn verifier_of(algorithm: &str) -> TokenVerifier {
    TokenVerifier::new(&Secret::new(KEY), algorithm.parse().unwrap())
}

fn soon() -> i64 {
    SystemClock.now().timestamp() + 600
}

fn sign(algorithm: &str, key: &str, message: &str) -> Vec<u8> {
    fn mac<M: Mac + KeyInit>(key: &str, message: &str) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(message.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }
    match algorithm {
        "HS384" => mac::<Hmac<Sha384>>(key, message),
        "HS512" => mac::<Hmac<Sha512>>(key, message),
        _ => mac::<Hmac<Sha256>>(key, message),
    }
}

/// A token with any header, signed by the algorithm that `signed_as` names.
fn token(header: &Value, claims: &str, signed_as: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(&header.to_string()), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed_as, KEY, &message));
    format!("{message}.{signature}")
}

fn plain(algorithm: &str, claims: &Value) -> String {
    token(
        &json!({"alg": algorithm, "typ": "JWT"}),
        &claims.to_string(),
        algorithm,
    )
}

#[test]
fn a_token_of_the_configured_algorithm_names_its_user() {
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = plain(algorithm, &json!({"sub": "a@example.com", "exp": soon()}));
        assert_eq!(
            verifier_of(algorithm).email(&token).as_deref(),
            Ok("a@example.com"),
            "{algorithm}"
        );
        for other in ["HS256", "HS384", "HS512"]
            .into_iter()
            .filter(|it| *it != algorithm)
        {
            assert_eq!(
                verifier_of(other).email(&token),
                Err(TokenError::WrongAlgorithm),
                "{algorithm} as {other}"
            );
        }
    }
}

#[test]
fn the_vector_of_rfc_7515_is_verified_and_has_expired() {
    // RFC 7515, A.1: the key is binary, so the primitive is asked.
    let key = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let key = DecodingKey::from_secret(&key);
    let token = format!("{message}.{signature}");
    let mut verifier = verifier_of("HS256");
    verifier.key = key;
    assert_eq!(verifier.email(&token), Err(TokenError::Expired));
    let changed = token.replace("dBjft", "eBjft");
    assert_eq!(verifier.email(&changed), Err(TokenError::WrongSignature));
}

#[test]
fn bad_tokens_are_refused_for_what_they_are() {
    let (user, exp) = ("a@example.com", soon());
    let good = plain("HS256", &json!({"sub": user, "exp": exp}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned = |header: Value| {
        let claims = json!({"sub": user, "exp": exp}).to_string();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.", part(&header.to_string()), part(&claims))
    };
    let claimed = |claims: Value| plain("HS256", &claims);
    let header = |header: Value| token(&header, &json!({"sub": user, "exp": exp}).to_string(), "HS256");
    let over_long = "é".repeat(LONGEST_EMAIL);
    let cases = [
        ("empty", String::new(), TokenError::Malformed),
        ("one part", "abc".into(), TokenError::Malformed),
        ("four parts", format!("{good}.abc"), TokenError::Malformed),
        ("no base64", "!!.??.**".into(), TokenError::Malformed),
        (
            "no JSON",
            token(&json!({"alg": "HS256"}), "not JSON", "HS256"),
            TokenError::Malformed,
        ),
        (
            "too long",
            format!("{good}{}", "A".repeat(LONGEST_TOKEN)),
            TokenError::Malformed,
        ),
        (
            "a cut signature",
            format!("{message}.{}", &signature[..20]),
            TokenError::WrongSignature,
        ),
        ("no signature", format!("{message}."), TokenError::WrongSignature),
        (
            "other claims",
            {
                let forged = plain("HS256", &json!({"sub": "b@example.com", "exp": exp}));
                format!("{}.{signature}", forged.rsplit_once('.').unwrap().0)
            },
            TokenError::WrongSignature,
        ),
        ("none", unsigned(json!({"alg": "none"})), TokenError::Malformed),
        ("None", unsigned(json!({"alg": "None"})), TokenError::Malformed),
        (
            "none, signed",
            header(json!({"alg": "none"})),
            TokenError::Malformed,
        ),
        (
            "no algorithm",
            header(json!({"typ": "JWT"})),
            TokenError::Malformed,
        ),
        (
            "confused with RSA",
            header(json!({"alg": "RS256"})),
            TokenError::WrongAlgorithm,
        ),
        (
            "confused with an elliptic curve",
            header(json!({"alg": "ES256"})),
            TokenError::WrongAlgorithm,
        ),
        (
            "another HMAC",
            plain("HS512", &json!({"sub": user, "exp": exp})),
            TokenError::WrongAlgorithm,
        ),
        (
            "a critical extension",
            header(json!({"alg": "HS256", "crit": ["x"], "x": 1})),
            TokenError::NotForUs,
        ),
        (
            "expired",
            claimed(json!({"sub": user, "exp": exp - 601})),
            TokenError::Expired,
        ),
        ("no expiry", claimed(json!({"sub": user})), TokenError::NoExpiry),
        (
            "null expiry",
            claimed(json!({"sub": user, "exp": null})),
            TokenError::NoExpiry,
        ),
        (
            "text expiry",
            claimed(json!({"sub": user, "exp": "tomorrow"})),
            TokenError::NoExpiry,
        ),
        (
            "negative expiry",
            claimed(json!({"sub": user, "exp": -1})),
            TokenError::NoExpiry,
        ),
        (
            "not yet",
            claimed(json!({"sub": user, "exp": exp, "nbf": exp})),
            TokenError::NotForUs,
        ),
        (
            "another service's",
            claimed(json!({"sub": user, "exp": exp, "aud": "x"})),
            TokenError::NotForUs,
        ),
        ("no user", claimed(json!({"exp": exp})), TokenError::NoUser),
        (
            "an empty user",
            claimed(json!({"sub": "", "exp": exp})),
            TokenError::NoUser,
        ),
        (
            "a number as user",
            claimed(json!({"sub": 7, "exp": exp})),
            TokenError::NoUser,
        ),
        (
            "a list as user",
            claimed(json!({"sub": [user], "exp": exp})),
            TokenError::Malformed,
        ),
        (
            "a zero byte",
            claimed(json!({"sub": "a\0b", "exp": exp})),
            TokenError::NoUser,
        ),
        (
            "a novel",
            claimed(json!({"sub": over_long, "exp": exp})),
            TokenError::NoUser,
        ),
    ];
    let verifier = verifier_of("HS256");
    assert_eq!(verifier.email(&good).as_deref(), Ok(user));
    for (what, token, reason) in cases {
        assert_eq!(verifier.email(&token), Err(reason), "{what}");
    }
}

#[test]
fn only_hmac_may_be_configured() {
    for name in ["none", "RS256", "ES256", "EdDSA", "hs256", ""] {
        assert_eq!(name.parse::<HmacAlgorithm>(), Err(()), "{name}");
    }
}

#[test]
fn a_verifier_does_not_print_its_key() {
    assert!(!format!("{:?}", verifier_of("HS256")).contains("key of the tests"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = verifier_of("HS512").email(&text);
    }
}
