//! What the fuzz targets share; see `run`.

pub mod der;
pub mod properties;
