-- An amateur football league: clubs, their grounds and teams, players, referees, one season's matches, goals and cards.

CREATE TABLE clubs (
    club_id INTEGER PRIMARY KEY,
    club_name TEXT NOT NULL,
    town TEXT NOT NULL,
    founded_year INTEGER,
    member_count INTEGER NOT NULL,
    youth_member_count INTEGER,
    annual_fee REAL NOT NULL
);

CREATE TABLE grounds (
    ground_id INTEGER PRIMARY KEY,
    ground_name TEXT NOT NULL,
    town TEXT NOT NULL,
    surface TEXT NOT NULL,
    capacity INTEGER NOT NULL,
    seat_count INTEGER NOT NULL,
    floodlights INTEGER NOT NULL,
    opened_year INTEGER
);

CREATE TABLE teams (
    team_id INTEGER PRIMARY KEY,
    club_id INTEGER NOT NULL,
    team_name TEXT NOT NULL,
    division TEXT NOT NULL,
    home_ground_id INTEGER,
    coach_name TEXT,
    shirt_colour TEXT NOT NULL,
    FOREIGN KEY (club_id) REFERENCES clubs (club_id),
    FOREIGN KEY (home_ground_id) REFERENCES grounds (ground_id)
);

CREATE TABLE players (
    player_id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    team_id INTEGER,
    position TEXT NOT NULL,
    shirt_number INTEGER,
    birth_date TEXT NOT NULL,
    joined_on TEXT NOT NULL,
    left_on TEXT,
    FOREIGN KEY (team_id) REFERENCES teams (team_id)
);

CREATE TABLE referees (
    referee_id INTEGER PRIMARY KEY,
    referee_name TEXT NOT NULL,
    home_town TEXT NOT NULL,
    grade INTEGER NOT NULL,
    licensed_on TEXT NOT NULL,
    licence_expires_on TEXT,
    match_fee REAL NOT NULL
);

CREATE TABLE matches (
    match_id INTEGER PRIMARY KEY,
    home_team_id INTEGER NOT NULL,
    away_team_id INTEGER NOT NULL,
    ground_id INTEGER NOT NULL,
    referee_id INTEGER,
    played_on TEXT NOT NULL,
    kickoff_time TEXT NOT NULL,
    home_goals INTEGER,
    away_goals INTEGER,
    attendance INTEGER,
    FOREIGN KEY (home_team_id) REFERENCES teams (team_id),
    FOREIGN KEY (away_team_id) REFERENCES teams (team_id),
    FOREIGN KEY (ground_id) REFERENCES grounds (ground_id),
    FOREIGN KEY (referee_id) REFERENCES referees (referee_id)
);

CREATE TABLE match_events (
    event_id INTEGER PRIMARY KEY,
    match_id INTEGER NOT NULL,
    player_id INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    minute INTEGER NOT NULL,
    FOREIGN KEY (match_id) REFERENCES matches (match_id),
    FOREIGN KEY (player_id) REFERENCES players (player_id)
);
