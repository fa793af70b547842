/*
 * Seals what was published (base/seal.h), on a thread of its own at the lowest
 * priority: the kernel reads each file whole for it, and nobody waits for that.
 */
#ifndef CATALOG_SEALER_H
#define CATALOG_SEALER_H

struct sealer;

/* One without a thread, which begins with the first file. NULL: no memory. */
struct sealer *cat_sealer_new(void);

/*
 * Has the file sealed, after those that wait. It is durable and its mode final. A
 * file that cannot be sealed is left as it is: the stamps are for those. fd: read-only,
 * the caller's; the sealer keeps one of its own.
 */
void cat_sealer_add(struct sealer *s, int fd);

/* Waits until all is sealed, and frees. NULL is nothing. */
void cat_sealer_finish(struct sealer *s);

#endif
