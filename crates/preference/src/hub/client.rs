//! Requests to the hub: a repository's list of files, and their downloads into the hub's own cache.
//!
//! The token belongs to the hub alone. Files are mostly served by other hosts that the hub redirects to, so redirects are
//! followed here, one by one, and a request carries the token only where scheme, host and port are the hub's. (hf-hub 0.5
//! sends it along to the redirect's target when it asks for a file's size.) No message shows a token or the user and password
//! of an address.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// Where the hub is unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Redirects followed for one file.
const REDIRECTS: usize = 10;
/// Times that a download is gone on with after it broke off.
const RETRIES: u32 = 2;
/// Longest list of a repository's files, bytes.
const MAX_LIST: u64 = 256 << 20;
/// Without an answer for so long, a connection is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository at one commit.
#[derive(Deserialize)]
pub(super) struct Info {
    /// The commit.
    pub sha: String,
    /// Its files.
    #[serde(default)]
    pub siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Deserialize)]
pub(super) struct Sibling {
    /// Its path.
    pub rfilename: String,
}

/// A connection to the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
}

/// Why a request failed, without secrets.
type Failure = String;

/// Scheme, host and port.
fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or("https").to_ascii_lowercase();
    let port = if scheme == "http" { 80 } else { 443 };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    (scheme, host, uri.port_u16().unwrap_or(port))
}

/// An address without user and password.
fn public(uri: &Uri) -> String {
    let (scheme, host, _) = origin(uri);
    let port = uri
        .port_u16()
        .map_or(String::new(), |port| format!(":{port}"));
    format!("{scheme}://{host}{port}{}", uri.path())
}

fn parse(address: &str) -> Result<Uri, Failure> {
    let uri: Uri = address
        .parse()
        .map_err(|_| "an address that cannot be read".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() => Ok(uri),
        _ => Err(format!("not an http or https address: {}", public(&uri))),
    }
}

impl Client {
    /// A client for the hub that the environment names.
    pub(super) fn new(cache: &Cache) -> Result<Self, Failure> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = parse(endpoint.trim_end_matches('/'))
            .map_err(|reason| format!("HF_ENDPOINT: {reason}"))?;
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE));
        Ok(Client {
            agent: config.build().new_agent(),
            endpoint,
            token: given("HF_TOKEN").or_else(|| cache.token()),
        })
    }

    /// The address of something on the hub.
    fn at(&self, path: &str) -> Result<Uri, Failure> {
        let base = self.endpoint.to_string();
        parse(&format!("{}/{path}", base.trim_end_matches('/')))
    }

    /// One request; the token goes to the hub alone.
    fn request(&self, uri: &Uri, start: u64) -> Result<Response<Body>, Failure> {
        // Bytes as they are, so that their number can be checked.
        let mut request = self
            .agent
            .get(uri.clone())
            .header("Accept-Encoding", "identity");
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        if let Some(token) = &self.token
            && origin(uri) == origin(&self.endpoint)
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let failed = |error: ureq::Error| match error {
            // Its text may hold the whole address.
            ureq::Error::BadUri(_) => format!("request error: {}", public(uri)),
            error => format!("request error: {}: {error}", public(uri)),
        };
        request.call().map_err(failed)
    }

    /// Follows redirects to an answer; gives it with the first ETag that the hub itself named.
    fn get(&self, uri: Uri, start: u64) -> Result<(Response<Body>, Option<String>), Failure> {
        let (mut uri, mut etag) = (uri, None);
        for _ in 0..=REDIRECTS {
            let response = self.request(&uri, start)?;
            let header = |name: &str| {
                let value = response.headers().get(name)?;
                value.to_str().ok().map(str::to_owned)
            };
            etag = etag
                .or_else(|| header("x-linked-etag"))
                .or_else(|| header("etag"));
            let status = response.status();
            if !status.is_redirection() {
                return match status.is_success() || status.as_u16() == 416 {
                    true => Ok((response, etag)),
                    false => Err(format!(
                        "request error: {}: http status {status}",
                        public(&uri)
                    )),
                };
            }
            let target = header("location").ok_or("a redirect without a target")?;
            uri = resolve(&uri, &target)?;
        }
        Err(format!("more than {REDIRECTS} redirects"))
    }

    /// The files of a repository.
    pub(super) fn info(&self, id: &str, kind: RepoType) -> Result<Info, Failure> {
        let list = match kind {
            RepoType::Dataset => "datasets",
            RepoType::Space => "spaces",
            RepoType::Model => "models",
        };
        let (response, _) = self.get(self.at(&format!("api/{list}/{id}/revision/main"))?, 0)?;
        let mut body = response.into_body();
        let text = body.with_config().limit(MAX_LIST).read_to_string();
        let text = text.map_err(|error| format!("request error: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("the hub's list of files: {error}"))
    }

    /// A file of a repository at one commit, in the cache: downloaded unless it is there. `goes` is called whenever a piece
    /// of it came.
    pub(super) fn download(
        &self,
        cache: &Cache,
        (id, kind): (&str, RepoType),
        commit: &str,
        name: &str,
        goes: &dyn Fn(),
    ) -> Result<PathBuf, Failure> {
        let folder = Repo::new(id.to_owned(), kind).folder_name();
        let folder = cache.path().join(folder);
        let pointer = folder.join("snapshots").join(commit).join(name);
        if pointer.exists() {
            return Ok(pointer);
        }
        let prefix = match kind {
            RepoType::Dataset => "datasets/",
            RepoType::Space => "spaces/",
            RepoType::Model => "",
        };
        let path: Vec<String> = name.split('/').map(escaped).collect();
        let uri = self.at(&format!("{prefix}{id}/resolve/{commit}/{}", path.join("/")))?;
        let (first, etag) = self.get(uri.clone(), 0)?;
        let etag = etag.ok_or("the hub names no ETag")?;
        let etag = etag.trim_start_matches("W/").replace('"', "");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if etag.is_empty() || etag.starts_with('.') || !etag.chars().all(plain) {
            return Err(format!("the hub names the odd ETag {etag:?}"));
        }
        let blob = folder.join("blobs").join(&etag);
        goes();
        self.blob(first, &uri, &blob, goes)?;
        point(&blob, &pointer).map_err(|error| format!("{}: {error}", pointer.display()))?;
        Ok(pointer)
    }

    /// Fills a blob, one process at a time; what broke off is gone on with.
    fn blob(
        &self,
        first: Response<Body>,
        uri: &Uri,
        blob: &Path,
        goes: &dyn Fn(),
    ) -> Result<(), Failure> {
        let fault = |error: std::io::Error| format!("{}: {error}", blob.display());
        fs::create_dir_all(blob.parent().unwrap_or(Path::new("."))).map_err(fault)?;
        let part = blob.with_extension("incomplete");
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&part)
            .map_err(fault)?;
        file.lock().map_err(fault)?;
        if blob.exists() {
            return Ok(()); // another process had it meanwhile
        }
        let mut response = match file.metadata().map_err(fault)?.len() {
            0 => Some(first),
            _ => None,
        };
        let mut tries = 0;
        loop {
            let start = file.metadata().map_err(fault)?.len();
            let answer = match response.take() {
                Some(response) => Ok(response),
                None => self.get(uri.clone(), start).map(|(response, _)| response),
            };
            match answer.and_then(|answer| receive(answer, start, &mut file, goes)) {
                Ok(()) => break,
                Err(reason) if tries == RETRIES => return Err(reason),
                Err(_) => std::thread::sleep(Duration::from_millis(300 << tries)),
            }
            tries += 1;
        }
        file.sync_all().map_err(fault)?;
        fs::rename(&part, blob).map_err(fault)
    }
}

/// Appends an answer's bytes to a file that holds the first `start`, and checks that none is missing.
fn receive(
    answer: Response<Body>,
    start: u64,
    file: &mut File,
    goes: &dyn Fn(),
) -> Result<(), Failure> {
    let fault = |error: std::io::Error| format!("the download broke off: {error}");
    if answer.status().as_u16() == 416 || (start > 0 && answer.status().as_u16() != 206) {
        // Not what was asked for: from the beginning, next time.
        file.set_len(0).map_err(fault)?;
        return Err("the hub does not go on with a download".to_owned());
    }
    let length = answer.body().content_length().map(|length| start + length);
    let range = answer
        .headers()
        .get("content-range")
        .and_then(|range| range.to_str().ok());
    let total = range
        .and_then(|range| range.rsplit('/').next()?.parse().ok())
        .or(length);
    let mut reader = answer.into_body().into_reader();
    let (mut have, mut buffer) = (start, vec![0; 1 << 16]);
    loop {
        let n = reader.read(&mut buffer).map_err(fault)?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(fault)?;
        have += n as u64;
        goes();
    }
    match total {
        Some(total) if total != have => {
            Err(format!("the download broke off: {have} of {total} bytes"))
        }
        _ => Ok(()),
    }
}

/// A path's part in an address.
fn escaped(part: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let bytes = part.as_bytes().iter();
    let shown = bytes.map(|b| {
        if plain(b) {
            char::from(*b).to_string()
        } else {
            format!("%{b:02X}")
        }
    });
    shown.collect()
}

/// Where a redirect leads.
fn resolve(from: &Uri, target: &str) -> Result<Uri, Failure> {
    if target.contains("://") {
        return parse(target);
    }
    let (scheme, ..) = origin(from);
    if let Some(rest) = target.strip_prefix("//") {
        return parse(&format!("{scheme}://{rest}"));
    }
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let path = match target.strip_prefix('/') {
        Some(path) => path.to_owned(),
        None => {
            let folder = from
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{}/{target}", folder.trim_start_matches('/'))
        }
    };
    parse(&format!("{scheme}://{authority}/{path}"))
}

/// Makes a snapshot's file point to its blob, as the hub's programs do; a copy where links cannot be made.
fn point(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if let Some(folder) = pointer.parent() {
        fs::create_dir_all(folder)?;
    }
    if link(blob, pointer).is_ok() || pointer.exists() {
        return Ok(());
    }
    let part = pointer.with_extension("incomplete");
    fs::copy(blob, &part)?;
    fs::rename(part, pointer)
}

/// A symbolic link with a relative target: the cache may be moved as a whole.
#[cfg(unix)]
fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    let root = blob
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""));
    let inside = |path: &Path| {
        path.strip_prefix(root)
            .map(Path::to_owned)
            .map_err(std::io::Error::other)
    };
    let (blob, below) = (inside(blob)?, inside(pointer)?);
    let up: PathBuf = below.components().skip(1).map(|_| "..").collect();
    std::os::unix::fs::symlink(up.join(blob), pointer)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_origins_told_apart() {
        let from = parse("https://hub.test/org/name/resolve/main/a.json").unwrap();
        for (target, to) in [
            ("https://cdn.test/x?y=1", "https://cdn.test/x?y=1"),
            ("/other/path", "https://hub.test/other/path"),
            ("b.json", "https://hub.test/org/name/resolve/main/b.json"),
            ("//cdn.test/z", "https://cdn.test/z"),
        ] {
            assert_eq!(resolve(&from, target).unwrap().to_string(), to);
        }
        assert!(resolve(&from, "file:///etc/passwd").is_err());
        let same = |other: &str| origin(&parse(other).unwrap()) == origin(&from);
        assert!(same("https://HUB.test:443/elsewhere"));
        for other in [
            "http://hub.test/",
            "https://hub.test:8443/",
            "https://hub.test.evil/",
            "https://x.hub.test/",
        ] {
            assert!(!same(other), "{other}");
        }
    }

    #[test]
    fn messages_show_no_user_and_password() {
        let uri = parse("http://user:secret@127.0.0.1:9/x").unwrap();
        assert_eq!(public(&uri), "http://127.0.0.1:9/x");
    }
}
