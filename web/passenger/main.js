import { takeToken } from "../shared/link.js";
import { readSettings } from "../shared/settings.js";
import { PassengerPage } from "./page.js";

// The token must leave the address bar before anything else happens.
const token = takeToken();
new PassengerPage(token, await readSettings()).start();
