//! Where the Hub and the cache are, and how patient to be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{HubError, Result, Retry};

/// The Hub itself.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Everything that a [`crate::Hub`] needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cache's folder, which holds `models--…` and `datasets--…`.
    pub cache: PathBuf,
    /// Scheme and host of the Hub, without a slash at the end.
    pub endpoint: String,
    /// What identifies the user to the Hub.
    pub token: Option<Token>,
    /// True if the network may not be used.
    pub offline: bool,
    /// The proxy, if any.
    pub proxy: Option<Proxy>,
    /// How often and when to try again.
    pub retry: Retry,
    /// When a connection counts as lost.
    pub timeouts: Timeouts,
}

/// When a connection counts as lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For looking up a name and connecting.
    pub connect: Duration,
    /// Without a single byte.
    pub stall: Duration,
}

impl Default for Timeouts {
    /// 10 seconds each, as Python's library has it.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), stall: Duration::from_secs(10) }
    }
}

/// A secret. It can be sent and compared, but not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token of a variable or file; none if there is nothing but white space in it.
    ///
    /// # Errors
    /// [`HubError::Setting`] if it holds what no header can hold.
    pub fn new(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            let reason = "the token holds white space or characters that are not ASCII".to_owned();
            return Err(HubError::Setting { setting: "HF_TOKEN", reason });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A proxy and the hosts that are reached without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its address, such as `http://proxy:3128`; may hold a user's name and password.
    pub address: String,
    /// Hosts that are reached directly, as in `NO_PROXY`.
    pub bypass: Vec<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("bypass", &self.bypass).finish_non_exhaustive()
    }
}

/// The values of the environment variables that Python's `huggingface_hub` reads. One that is empty counts as not set.
#[derive(Clone, Default)]
pub struct Variables {
    /// `HF_HOME`: the folder of cache and token; by default `huggingface` in `XDG_CACHE_HOME`.
    pub hf_home: Option<String>,
    /// `HF_HUB_CACHE` (or the older `HUGGINGFACE_HUB_CACHE`): the cache; by default `hub` in `HF_HOME`.
    pub hf_hub_cache: Option<String>,
    /// `HF_ENDPOINT`: another endpoint.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN` (or the older `HUGGING_FACE_HUB_TOKEN`): the token; by default what `HF_TOKEN_PATH` holds.
    pub hf_token: Option<String>,
    /// `HF_TOKEN_PATH`: the file with the token; by default `token` in `HF_HOME`.
    pub hf_token_path: Option<String>,
    /// `HF_HUB_OFFLINE`: 1, on, yes or true if the network may not be used.
    pub hf_hub_offline: Option<String>,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: seconds without a byte after which a connection counts as lost.
    pub hf_hub_download_timeout: Option<String>,
    /// `XDG_CACHE_HOME`: by default `.cache` in `HOME`.
    pub xdg_cache_home: Option<String>,
    /// `HOME`.
    pub home: Option<String>,
    /// `HTTPS_PROXY` or `ALL_PROXY`.
    pub proxy: Option<String>,
    /// `NO_PROXY`: hosts, separated by commas.
    pub no_proxy: Option<String>,
}

impl Settings {
    /// The defaults, with this cache.
    pub fn with_cache(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            proxy: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// What the variables ask for, by the rules of Python's `huggingface_hub`. Reads the token's file.
    ///
    /// # Errors
    /// [`HubError::Setting`] for a value that cannot be used, [`HubError::Disk`] for a token file that cannot be read.
    pub fn from_variables(variables: &Variables) -> Result<Self> {
        let set = |value: &Option<String>| value.clone().filter(|text| !text.trim().is_empty());
        let home = set(&variables.home);
        let path = |value: &Option<String>| set(value).map(|text| expanded(&text, home.as_deref()));
        let hf_home = path(&variables.hf_home)
            .or_else(|| path(&variables.xdg_cache_home).map(|folder| folder.join("huggingface")))
            .or_else(|| home.as_ref().map(|folder| Path::new(folder).join(".cache/huggingface")));
        let need_home = || {
            let reason = "neither HF_HOME nor HOME says where the cache is".to_owned();
            HubError::Setting { setting: "HF_HOME", reason }
        };
        let below = |name: &str| hf_home.as_ref().map(|folder| folder.join(name));
        let cache = path(&variables.hf_hub_cache).or_else(|| below("hub")).ok_or_else(need_home)?;
        let mut settings = Self::with_cache(cache);
        if let Some(endpoint) = set(&variables.hf_endpoint) {
            settings.endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        }
        settings.token = match set(&variables.hf_token) {
            Some(token) => Token::new(&token)?,
            None => {
                path(&variables.hf_token_path).or_else(|| below("token")).map_or(Ok(None), |file| token_of(&file))?
            }
        };
        settings.offline = set(&variables.hf_hub_offline).is_some_and(|text| is_true(&text));
        if let Some(text) = set(&variables.hf_hub_download_timeout) {
            let seconds = text.trim().parse::<u64>().ok().filter(|&seconds| seconds > 0).ok_or_else(|| {
                let reason = "expected a whole number of seconds above 0".to_owned();
                HubError::Setting { setting: "HF_HUB_DOWNLOAD_TIMEOUT", reason }
            })?;
            settings.timeouts.stall = Duration::from_secs(seconds);
        }
        let hosts = set(&variables.no_proxy).unwrap_or_default();
        let bypass = hosts.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect();
        settings.proxy = set(&variables.proxy).map(|address| Proxy { address, bypass });
        Ok(settings)
    }
}

fn token_of(file: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Token::new(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Disk { action: "read", path: file.to_owned(), source }),
    }
}

/// A path whose leading `~` is the user's home.
fn expanded(text: &str, home: Option<&str>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    }
}

fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.trim().to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &Variables| Settings::from_variables(variables).unwrap().cache;
        let mut variables = Variables { home: some("/h"), ..Variables::default() };
        assert_eq!(cache(&variables), Path::new("/h/.cache/huggingface/hub"));
        variables.xdg_cache_home = some("/x");
        assert_eq!(cache(&variables), Path::new("/x/huggingface/hub"));
        variables.hf_home = some("~/hf");
        assert_eq!(cache(&variables), Path::new("/h/hf/hub"));
        variables.hf_hub_cache = some("/c");
        assert_eq!(cache(&variables), Path::new("/c"));
        let error = Settings::from_variables(&Variables::default()).unwrap_err();
        assert!(matches!(error, HubError::Setting { setting: "HF_HOME", .. }));
    }

    #[test]
    fn values_are_understood_as_python_does() {
        let of = |f: &dyn Fn(&mut Variables)| {
            let mut variables = Variables { home: some("/nowhere"), ..Variables::default() };
            f(&mut variables);
            Settings::from_variables(&variables)
        };
        assert_eq!(of(&|_| {}).unwrap().endpoint, DEFAULT_ENDPOINT);
        assert_eq!(of(&|v| v.hf_endpoint = some("http://m/")).unwrap().endpoint, "http://m");
        assert_eq!(of(&|v| v.hf_endpoint = some("")).unwrap().endpoint, DEFAULT_ENDPOINT);
        for (text, expected) in [("1", true), ("true", true), ("Yes", true), ("ON", true), ("0", false), ("x", false)] {
            assert_eq!(of(&|v| v.hf_hub_offline = some(text)).unwrap().offline, expected, "{text}");
        }
        let settings = of(&|v| v.hf_hub_download_timeout = some("3")).unwrap();
        assert_eq!(settings.timeouts.stall, Duration::from_secs(3));
        assert!(of(&|v| v.hf_hub_download_timeout = some("0")).is_err());
        let proxy = of(&|v| (v.proxy, v.no_proxy) = (some("http://u:p@h:1"), some("a, .b,"))).unwrap().proxy.unwrap();
        assert_eq!(proxy.bypass, ["a", ".b"]);
        assert!(!format!("{proxy:?}").contains("u:p"));
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file_and_are_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let mut variables = Variables { hf_home: dir.path().to_str().map(str::to_owned), ..Variables::default() };
        let token = |variables: &Variables| Settings::from_variables(variables).unwrap().token.unwrap().header();
        assert_eq!(token(&variables), "Bearer hf_file");
        variables.hf_token = some(" hf_variable ");
        assert_eq!(token(&variables), "Bearer hf_variable");
        let shown = format!("{:?}", Settings::from_variables(&variables).unwrap());
        assert!(!shown.contains("hf_variable"), "{shown}");
        variables.hf_token = some("hf se cret");
        let error = Settings::from_variables(&variables).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("cret"), "{error}");
    }
}
