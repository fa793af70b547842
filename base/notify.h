/*
 * Telling the service manager how this program is, by the protocol of sd_notify(3).
 */
#pragma once

/*
 * Sends `state` ("READY=1") to $NOTIFY_SOCKET, if there is one. A failure is logged.
 */
void notify_send(const char *state);
