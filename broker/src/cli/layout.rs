//! Where a quickstart keeps its things.

use std::path::{Path, PathBuf};

/// The folders of one quickstart.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The config file.
    pub config: PathBuf,
    /// CAs, the server's certificate.
    pub certs: PathBuf,
    /// `<tenant>/<principal>/` with what clients need.
    pub clients: PathBuf,
    /// The operator's certificate, for commands that ask the running broker.
    pub operator: PathBuf,
    /// Keyring and its key file.
    pub keys: PathBuf,
    /// The broker's data.
    pub data: PathBuf,
    /// Tenants and policies.
    pub organisation: PathBuf,
}

impl Layout {
    /// Everything below one folder, or, without one, `certs/dev` and `data` of the current folder.
    pub fn new(dir: Option<&Path>) -> std::io::Result<Self> {
        let here = std::env::current_dir()?;
        Ok(match dir {
            Some(dir) => {
                let dir = here.join(dir);
                Self {
                    config: dir.join("schloss.toml"),
                    certs: dir.join("certs"),
                    clients: dir.join("clients"),
                    operator: dir.join("operator"),
                    keys: dir.join("keys"),
                    data: dir.join("data"),
                    organisation: dir.join("organisation"),
                }
            }
            None => {
                let (dev, data) = (here.join("certs/dev"), here.join("data"));
                Self {
                    config: data.join("schloss.toml"),
                    clients: dev.join("clients"),
                    operator: dev.join("operator"),
                    keys: data.join("keys"),
                    organisation: data.join("organisation"),
                    data: data.join("broker"),
                    certs: dev,
                }
            }
        })
    }

    /// A principal's folder.
    #[must_use]
    pub fn client(&self, tenant: &str, principal: &str) -> PathBuf {
        self.clients.join(tenant).join(principal)
    }
}
