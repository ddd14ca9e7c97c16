// Serves the key set with Express as its documentation shows: the set is encoded for each request,
// and Express adds the ETag.
//
// usage: node server.js PORT FILE
"use strict";

const { readFileSync } = require("node:fs");
const express = require("express");

const [port, file] = process.argv.slice(2);
const keys = JSON.parse(readFileSync(file, "utf8"));
const app = express();

app.get("/.well-known/jwks.json", (request, response) => response.json(keys));
const server = app.listen(Number(port), "127.0.0.1");
// As long as the others keep an idle connection.
server.keepAliveTimeout = 60_000;
