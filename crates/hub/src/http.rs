//! Requests to the endpoint, and along its redirects without the token.

use std::io;

use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body, ProxyProtocol, Timeout};

use crate::error::HubError;
use crate::{Reason, Result, Settings, Token, retry};

/// How many redirects are followed.
const REDIRECTS: usize = 6;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The headers of a file. Stops at a redirect to another origin: the Hub says everything before that.
    Head,
    /// The content from some byte on.
    Get {
        /// The first byte.
        from: u64,
    },
}

/// A server's last answer, and what the endpoint said on the way to it.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    /// Whether the last answer is the endpoint's own, not that of a host which it redirected to.
    pub(crate) of_endpoint: bool,
    /// The headers of the endpoint's own answers, in order.
    pub(crate) said: Vec<HeaderMap>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header of the last answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(self.response.headers(), name)
    }

    /// The last value that the endpoint itself gave to a header.
    pub(crate) fn endpoint_header(&self, name: &str) -> Option<&str> {
        self.said.iter().rev().find_map(|headers| text(headers, name))
    }

    /// When the server asks to come back.
    pub(crate) fn wait(&self) -> Option<std::time::Duration> {
        let after = self.header("retry-after").and_then(|value| retry::retry_after(value, self.header("date")));
        after.or_else(|| self.header("ratelimit").and_then(retry::rate_limit))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
}

/// The connection to an endpoint.
pub(crate) struct Http {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
}

/// Scheme, host and port: who gets the token.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin(String, String, u16);

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self(scheme, host, uri.port_u16().unwrap_or(default)))
    }
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let refuse = |setting, reason: &str| HubError::Setting { setting, reason: reason.to_owned() };
        let uri: Option<Uri> = settings.endpoint.parse().ok();
        let plain = uri.as_ref().filter(|uri| uri.authority().is_some_and(|a| !a.as_str().contains('@')));
        let origin = plain.filter(|uri| uri.query().is_none()).and_then(Origin::of).ok_or_else(|| {
            refuse("HF_ENDPOINT", "expected an address such as https://huggingface.co, without a user in it")
        })?;
        let proxy = settings
            .proxy
            .as_ref()
            .map(proxy)
            .transpose()
            .map_err(|()| refuse("HTTPS_PROXY", "expected an address such as http://proxy:3128"))?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("ufg-bench/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.timeouts.connect))
            .timeout_connect(Some(settings.timeouts.connect))
            .timeout_recv_response(Some(settings.timeouts.stall))
            .timeout_per_read(Some(settings.timeouts.stall))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint: settings.endpoint.clone(), origin, token: settings.token.clone() })
    }

    /// Whether a token is sent.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for `address` below the endpoint and follows redirects.
    ///
    /// # Errors
    /// What went wrong on the way; an answer of any status is no error.
    pub(crate) fn request(&self, method: Method, address: &str) -> std::result::Result<Answer, Reason> {
        let odd = |what: &str| Reason::Odd(what.to_owned());
        let mut uri: Uri =
            format!("{}/{address}", self.endpoint).parse().map_err(|_| odd("the address is malformed"))?;
        let mut said = Vec::new();
        for _ in 0..=REDIRECTS {
            let of_endpoint = Origin::of(&uri).as_ref() == Some(&self.origin);
            let response = self.ask(method, &uri, of_endpoint)?;
            if of_endpoint {
                said.push(response.headers().clone());
            }
            let location = text(response.headers(), "location").filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(Answer { response, of_endpoint, said });
            };
            let target = joined(&uri, location).ok_or_else(|| odd("it redirects to a malformed address"))?;
            let leaves = Origin::of(&target).as_ref() != Some(&self.origin);
            if method == Method::Head && leaves {
                return Ok(Answer { response, of_endpoint, said });
            }
            uri = target;
        }
        Err(odd("it redirects without end"))
    }

    fn ask(&self, method: Method, uri: &Uri, of_endpoint: bool) -> std::result::Result<Response<Body>, Reason> {
        let mut request = match method {
            Method::Head => self.agent.head(uri.clone()),
            Method::Get { .. } => self.agent.get(uri.clone()),
        };
        // The content as it is: a compressed answer has another length.
        request = request.header("accept-encoding", "identity");
        if let Method::Get { from } = method
            && from > 0
        {
            request = request.header("range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| of_endpoint) {
            request = request.header("authorization", token.header());
        }
        request.call().map_err(|error| reason(&error, uri.host().unwrap_or("the server")))
    }
}

fn proxy(settings: &crate::Proxy) -> std::result::Result<ureq::Proxy, ()> {
    let plain = ureq::Proxy::new(&settings.address).map_err(drop)?;
    let protocol: ProxyProtocol = plain.protocol();
    let mut builder = ureq::Proxy::builder(protocol).host(plain.host()).port(plain.port());
    if let Some(user) = plain.username() {
        builder = builder.username(user);
    }
    if let Some(password) = plain.password() {
        builder = builder.password(password);
    }
    settings.bypass.iter().fold(builder, |builder, host| builder.no_proxy(host)).build().map_err(drop)
}

/// The address that a redirect names.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    let authority = base.authority()?;
    let scheme = base.scheme_str()?;
    let text = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = text.split('#').next()?.parse().ok()?;
    Origin::of(&uri).map(|_| uri)
}

/// Why a request failed, without addresses: those of redirects hold signatures.
fn reason(error: &ureq::Error, host: &str) -> Reason {
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            Reason::Network(format!("cannot connect to {host}: no answer for too long"))
        }
        ureq::Error::Timeout(_) => Reason::Stalled,
        ureq::Error::HostNotFound => Reason::Network(format!("there is no host `{host}`")),
        ureq::Error::Io(error) => io_reason(error, host),
        ureq::Error::BadUri(_) => Reason::Odd("the address is malformed".to_owned()),
        other => Reason::Network(format!("{host}: {other}")),
    }
}

/// Why reading a body failed.
pub(crate) fn body_reason(error: &io::Error) -> Reason {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    inner.map_or_else(|| io_reason(error, "the connection"), |error| reason(error, "the connection"))
}

fn io_reason(error: &io::Error, host: &str) -> Reason {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Reason::Stalled,
        _ => Reason::Network(format!("{host}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_browsers_do() {
        let base: Uri = "https://hub:8443/a/resolve/main/x".parse().unwrap();
        for (location, expected) in [
            ("/b?c=1#d", "https://hub:8443/b?c=1"),
            ("y", "https://hub:8443/a/resolve/main/y"),
            ("//cdn/z", "https://cdn/z"),
            ("http://cdn:81/z?s=a%2Fb", "http://cdn:81/z?s=a%2Fb"),
        ] {
            assert_eq!(joined(&base, location).unwrap().to_string(), expected);
        }
        for bad in ["ftp://cdn/z", "http://", "https:// /"] {
            assert_eq!(joined(&base, bad), None, "{bad}");
        }
    }

    #[test]
    fn origins_know_the_default_ports() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap());
        assert_eq!(origin("https://Hub/a"), origin("https://hub:443/b"));
        assert_ne!(origin("https://hub"), origin("http://hub"));
        assert_ne!(origin("http://hub"), origin("http://hub:8080"));
        assert_ne!(origin("https://hub"), origin("https://hub.evil"));
        assert_eq!(origin("/a"), None);
    }

    #[test]
    fn settings_that_are_no_addresses_are_refused_without_being_shown() {
        let mut settings = Settings::with_cache("x");
        for bad in ["huggingface.co", "ftp://h", "", "https://user:secret@h", "https://h/?a=b"] {
            settings.endpoint = bad.to_owned();
            let error = Http::new(&settings).err().unwrap();
            assert!(matches!(&error, HubError::Setting { setting: "HF_ENDPOINT", .. }), "{bad}");
            assert!(!error.to_string().contains("secret"));
        }
        settings.endpoint = "https://h/hub".to_owned();
        settings.proxy = Some(crate::Proxy { address: "http://u:secret@p:3128".to_owned(), bypass: vec!["h".into()] });
        assert!(Http::new(&settings).is_ok());
        settings.proxy = Some(crate::Proxy { address: "no proxy".to_owned(), bypass: vec![] });
        assert!(matches!(Http::new(&settings).err(), Some(HubError::Setting { setting: "HTTPS_PROXY", .. })));
    }
}
