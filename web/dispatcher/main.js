import { takeToken } from "../shared/link.js";
import { readSettings } from "../shared/settings.js";
import { DispatcherPage } from "./page.js";

// The token must leave the address bar before anything else happens.
const token = takeToken();
new DispatcherPage(token, await readSettings()).start();
