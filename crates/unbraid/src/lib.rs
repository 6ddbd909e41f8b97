//! unbraid
