/* Reads flat values of a gob stream: messages, unsigned numbers, and structs whose fields are numbers or octets.
 *
 * Every function returns 0, or -1 for what is malformed or of another shape; then nothing it wrote counts. No pointer
 * goes beyond `end`, whatever the octets are. Who asks decides what a refusal means: see weavepy/wire/gob.py, which
 * reads all of gob.
 */
#ifndef WV_GOB_H
#define WV_GOB_H

#include <stddef.h>
#include <stdint.h>

enum { WV_GOB_FIELDS = 8 }; /* of a struct; more than any that is read here has */

struct wv_gob {
    const uint8_t *at, *end;
};

struct wv_gob_field {
    uint64_t number;       /* 0 if the field was left out */
    const uint8_t *octets; /* NULL if it was left out or is a number */
    size_t len;
};

int wv_gob_uint(struct wv_gob *g, uint64_t *number);

/* Takes one value message of type `type` and leaves its value in `body`. `dummy`: the zero octet that stands before
 * all but structs. */
int wv_gob_value(struct wv_gob *g, uint64_t type, int dummy, struct wv_gob *body);

/* Reads one struct of `n` fields, of which bit i of `octets` says whether field i is octets or a number. */
int wv_gob_struct(struct wv_gob *g, uint32_t octets, unsigned n, struct wv_gob_field fields[WV_GOB_FIELDS]);

#endif
