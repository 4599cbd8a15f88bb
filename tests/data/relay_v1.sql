-- A database of the first release (schema 1) with items in every state, as SQLite's .dump writes it.
BEGIN TRANSACTION;
CREATE TABLE inbox (
	id INTEGER NOT NULL, 
	event_uuid VARCHAR(255) NOT NULL, 
	entity_id VARCHAR(255) NOT NULL, 
	source VARCHAR(10) NOT NULL, 
	request_id VARCHAR(255), 
	payload TEXT NOT NULL, 
	received_at DOUBLE NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	reason VARCHAR(500), 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	next_attempt_at DOUBLE NOT NULL, 
	owner VARCHAR(100), 
	first_sent_at DOUBLE, 
	body TEXT, 
	idempotency_key VARCHAR(255), 
	note_on BIGINT, 
	ticket_id BIGINT, 
	settled_at DOUBLE, 
	PRIMARY KEY (id), 
	CONSTRAINT inbox_one_row_per_event_and_post UNIQUE (event_uuid, entity_id)
);
INSERT INTO "inbox" VALUES(1,'delivered-1','twitter:1','push','request-delivered-1','{"labels": ["CreateCase"], "item": {"sfEntityType": "StreamItem", "entityId": "twitter:1", "text": "My order never came, I am furious", "author": "Jo Customer", "createdDate": "2017-04-12T14:01:11.000Z"}}',1763900000.0,'delivered',NULL,1,1763900011.0,NULL,1763900001.0,'{"ticket": {"priority": "normal", "subject": "Jo Customer on X: My order never came, I am furious", "comment": {"html_body": "<p>My order never came, I am furious</p><p><b>From:</b> Jo Customer<br><b>Post:</b> no link on X<br><b>Posted:</b> 2017-04-12T14:01:11.000Z<br><b>Labels:</b> CreateCase<br><b>Khoros item:</b> twitter:1, event delivered-1</p>", "public": false}, "external_id": "twitter:1", "tags": ["khoros", "twitter", "createcase"], "metadata": {"khoros_event_uuid": "delivered-1"}}}','77aa386b65a9058ede5fbbbcd83998db20bb8f74',NULL,1001,1763900001.0);
INSERT INTO "inbox" VALUES(2,'parked-1','twitter:2','push','request-parked-1','{"labels": ["CreateCase"], "item": {"sfEntityType": "StreamItem", "entityId": "twitter:2", "text": "My order never came, I am furious", "author": "Jo Customer", "createdDate": "2017-04-12T14:01:11.000Z"}}',1763900002.0,'parked','Zendesk answered 422 RecordInvalid',1,1763900013.0,NULL,1763900003.0,'{"ticket": {"priority": "normal", "subject": "Jo Customer on X: My order never came, I am furious", "comment": {"html_body": "<p>My order never came, I am furious</p><p><b>From:</b> Jo Customer<br><b>Post:</b> no link on X<br><b>Posted:</b> 2017-04-12T14:01:11.000Z<br><b>Labels:</b> CreateCase<br><b>Khoros item:</b> twitter:2, event parked-1</p>", "public": false}, "external_id": "twitter:2", "tags": ["khoros", "twitter", "createcase"], "metadata": {"khoros_event_uuid": "parked-1"}}}','dd3d701a6ddc02a6afd63656acff211f45d602bf',NULL,NULL,1763900003.0);
INSERT INTO "inbox" VALUES(3,'unreadable:0000000000000000000000000000000000000000000000000000000000000000','','push','request-u','{"unreadable": {"eventName": ""}}',1763900004.0,'parked','eventName is missing',0,1763900004.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "inbox" VALUES(4,'sent-once','twitter:3','push','request-sent-once','{"labels": ["CreateCase"], "item": {"sfEntityType": "StreamItem", "entityId": "twitter:3", "text": "My order never came, I am furious", "author": "Jo Customer", "createdDate": "2017-04-12T14:01:11.000Z"}}',1763900004.0,'pending',NULL,1,1763900015.0,'web-1:17:0123abcd',1763900005.0,'{"ticket": {"priority": "normal", "subject": "Jo Customer on X: My order never came, I am furious", "comment": {"html_body": "<p>My order never came, I am furious</p><p><b>From:</b> Jo Customer<br><b>Post:</b> no link on X<br><b>Posted:</b> 2017-04-12T14:01:11.000Z<br><b>Labels:</b> CreateCase<br><b>Khoros item:</b> twitter:3, event sent-once</p>", "public": false}, "external_id": "twitter:3", "tags": ["khoros", "twitter", "createcase"], "metadata": {"khoros_event_uuid": "sent-once"}}}','6608db93697f0d9bd69b5f22762e672693825b09',NULL,NULL,NULL);
INSERT INTO "inbox" VALUES(5,'waiting','twitter:4','push','request-waiting','{"labels": ["CreateCase"], "item": {"sfEntityType": "StreamItem", "entityId": "twitter:4", "text": "My order never came, I am furious", "author": "Jo Customer", "createdDate": "2017-04-12T14:01:11.000Z"}}',1763900007.0,'pending',NULL,0,1763900007.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "inbox" VALUES(6,'again','twitter:1','push','request-again','{"labels": ["CreateCase"], "item": {"sfEntityType": "StreamItem", "entityId": "twitter:1", "text": "My order never came, I am furious", "author": "Jo Customer", "createdDate": "2017-04-12T14:01:11.000Z"}}',1763900007.0,'pending',NULL,0,1763900007.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE memory (
	name VARCHAR(50) NOT NULL, 
	value TEXT, 
	PRIMARY KEY (name)
);
INSERT INTO "memory" VALUES('schema_version','1');
INSERT INTO "memory" VALUES('gate','{"state": "open", "reason": "", "version": 0, "failures": 0, "hold_until": 0.0, "calls_left": null, "window_ends_at": 0.0}');
INSERT INTO "memory" VALUES('connection','{"state": "subscribed", "detail": "", "uuid": "subscription-1"}');
CREATE INDEX inbox_pending ON inbox (next_attempt_at, id) WHERE state = 'pending';
CREATE INDEX inbox_post ON inbox (entity_id, id);
CREATE INDEX inbox_parked ON inbox (next_attempt_at, id) WHERE state = 'parked';
COMMIT;
