// Serves the key set as a plain program does: it encodes the set for each request and logs each.
//
// usage: go-server PORT FILE
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strconv"
)

type key struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use"`
}

type set struct {
	Keys []key `json:"keys"`
}

func main() {
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	var keys set
	if err := json.Unmarshal(text, &keys); err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
		body, err := json.Marshal(keys)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// Otherwise a large set would be sent in chunks.
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
