module jwks-peer

go 1.19
