//! Which path leads to which route.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use tradebot_base::market::Market;

/// The OpenAPI document that describes the routes.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// The longest symbol name, in characters.
const LONGEST_NAME: usize = 64;

/// The paths of all routes, by [`Route::number`].
pub(crate) const TEMPLATES: [&str; 11] = [
    "/api/v1/symbols/spot",
    "/api/v1/symbols/futures",
    "/api/v1/symbols/spot/{symbol}",
    "/api/v1/symbols/futures/{symbol}",
    "/api/v1/symbols/changes",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
];

/// The target of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'p> {
    List(Market),
    Symbol(Market, Cow<'p, str>),
    Changes,
    Health,
    Live,
    Ready,
    Metrics,
    OpenApi,
    Page,
}

impl<'p> Route<'p> {
    /// The route of a path, with or without a trailing slash.
    pub(crate) fn of(path: &'p str) -> Option<Self> {
        // Nearly all requests are for these two.
        match path {
            "/api/v1/symbols/spot" => return Some(Self::List(Market::Spot)),
            "/api/v1/symbols/futures" => return Some(Self::List(Market::Futures)),
            "/" => return Some(Self::Page),
            _ => {}
        }
        match path.strip_suffix('/').unwrap_or(path) {
            "/api/v1/symbols/spot" => Some(Self::List(Market::Spot)),
            "/api/v1/symbols/futures" => Some(Self::List(Market::Futures)),
            "/api/v1/symbols/changes" => Some(Self::Changes),
            "/health" => Some(Self::Health),
            "/livez" => Some(Self::Live),
            "/readyz" => Some(Self::Ready),
            "/metrics" => Some(Self::Metrics),
            "/openapi.json" => Some(Self::OpenApi),
            path => Self::symbol(path),
        }
    }

    /// The place in [`TEMPLATES`].
    pub(crate) fn number(&self) -> usize {
        match self {
            Self::List(Market::Spot) => 0,
            Self::List(Market::Futures) => 1,
            Self::Symbol(Market::Spot, _) => 2,
            Self::Symbol(Market::Futures, _) => 3,
            Self::Changes => 4,
            Self::Health => 5,
            Self::Live => 6,
            Self::Ready => 7,
            Self::Metrics => 8,
            Self::OpenApi => 9,
            Self::Page => 10,
        }
    }

    /// The path, with a name for what varies.
    pub(crate) fn template(&self) -> &'static str {
        TEMPLATES[self.number()]
    }

    /// Whether the route shows nothing of the deployment.
    pub(crate) fn is_public(&self) -> bool {
        !matches!(self, Self::Page | Self::Metrics | Self::Ready)
    }

    fn symbol(path: &'p str) -> Option<Self> {
        let (market, name) = path.strip_prefix("/api/v1/symbols/")?.split_once('/')?;
        let market = Market::ALL.into_iter().find(|known| known.name() == market)?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        let fits = !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.contains('/');
        fits.then_some(Self::Symbol(market, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_they_did_and_to_symbols_of_any_script() {
        let symbol = |name: &'static str| Some(Route::Symbol(Market::Spot, name.into()));
        for (path, route) in [
            ("/", Some(Route::Page)),
            ("/api/v1/symbols/futures/", Some(Route::List(Market::Futures))),
            ("/api/v1/symbols/spot/BTCUSDT", symbol("BTCUSDT")),
            ("/api/v1/symbols/spot/%E5%B8%81USDT/", symbol("币USDT")),
            ("/api/v1/symbols/spot/%FF", None),
            ("/api/v1/symbols/spot/a%2Fb", None),
            ("/api/v1/symbols/spot//", None),
            ("/api/v1/symbols/coinm/BTCUSD", None),
            ("", None),
            ("//", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        let named = |length: usize| format!("/api/v1/symbols/spot/{}", "币".repeat(length));
        assert!(Route::of(&named(64)).is_some());
        assert_eq!(Route::of(&named(65)), None);
    }

    #[test]
    fn every_template_leads_to_its_route() {
        for template in TEMPLATES {
            let path = template.replace("{symbol}", "BTCUSDT");
            assert_eq!(Route::of(&path).map(|route| route.template()), Some(template));
        }
    }

    #[test]
    fn every_path_of_the_openapi_document_is_a_route() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        for path in &paths {
            let example = path.replace("{market}", "spot").replace("{symbol}", "BTCUSDT");
            assert!(Route::of(&example).is_some(), "{path}");
        }
        // Both lists, and one of each other variant.
        assert_eq!(paths.len(), 10);
    }
}
